"""OpenAI's second API, /v1/responses: items in, items and named events out. Nothing is stored."""
