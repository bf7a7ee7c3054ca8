"""Images: what stands for one in a prompt, and how a model reads it."""
