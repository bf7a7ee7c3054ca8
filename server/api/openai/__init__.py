"""OpenAI's endpoints: request and response bodies, and what happens between them."""
