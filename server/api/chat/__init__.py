"""Conversations: messages and tools as a chat template wants them, and answers as events."""
