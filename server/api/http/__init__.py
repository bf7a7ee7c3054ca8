"""The OpenAI-compatible HTTP surface: translators over the service, nothing that decides."""
