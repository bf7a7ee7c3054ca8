"""OpenAI's endpoints: request and response bodies, and the steps between them."""
