"""Loads any OpenAI-compatible server and says how fast it answered and what it took."""
