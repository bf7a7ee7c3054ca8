"""Images of requests: as clients send them, fetched, decoded, and placed in prompts."""
