"""The model configuration file: what it may say, and how changes of it are noticed."""
