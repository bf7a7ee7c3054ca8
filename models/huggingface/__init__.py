"""Reads a model's configuration from Hugging Face's config.json, family by family."""
