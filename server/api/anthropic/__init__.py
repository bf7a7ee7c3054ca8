"""Anthropic's API, /v1/messages: messages of blocks in, a message of blocks or named events out."""
