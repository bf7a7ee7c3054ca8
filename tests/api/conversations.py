"""Short conversations for tests."""

from __future__ import annotations

from server.api.chat.format import Conversation
from server.api.chat.messages import Message
from server.api.chat.template import RenderOptions


def said(*contents: str, **options: object) -> Conversation:
    """User and assistant in turns, the user first."""
    messages = tuple(
        Message(role="assistant" if i % 2 else "user", content=content)
        for i, content in enumerate(contents)
    )
    return Conversation(messages=messages, options=RenderOptions(**options))
