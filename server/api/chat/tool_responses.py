"""Puts the results of calls into the assistant's message, as Gemma 4's first templates expect them.

Those templates read a field `tool_responses` of the message with the calls, and what the model said
after the results is that message's content. Later ones read messages of tools, too. Knows no
template.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from server.api.chat.messages import Message

_FIELD = "tool_responses"


def expects_tool_responses(template: str) -> bool:
    """Whether a chat template reads results only there."""
    return _FIELD in template and "tool_call_id" not in template


def with_tool_responses(messages: Sequence[Message]) -> list[Message]:
    """The conversation without messages of tools: each result is in the message of its call."""
    joined: list[Message] = []
    for message in messages:
        last = joined[-1] if joined else None
        if last is not None and last.tool_calls and message.role == "tool":
            joined[-1] = replace(last, extra=_with_result(last, message))
        elif last is not None and _is_said_after(last, message):
            joined[-1] = replace(last, content=message.content)
        else:
            joined.append(message)
    return joined


def _with_result(calling: Message, result: Message) -> Mapping[str, Any]:
    given = calling.extra.get(_FIELD, ())
    by_id = (call.name for call in calling.tool_calls if call.id == result.tool_call_id)
    name = next(by_id, result.name or "unknown")
    return {**calling.extra, _FIELD: [*given, {"name": name, "response": result.content}]}


def _is_said_after(calling: Message, message: Message) -> bool:
    """Whether a message is the answer that follows a message's results, in the same turn."""
    is_plain = message.role == "assistant" and not message.tool_calls and not message.parts
    return is_plain and _FIELD in calling.extra and not calling.content
