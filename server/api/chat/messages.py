"""A conversation as every protocol hands it over: typed messages and tool calls.

Translators read their own wire forms into these types; `for_template` is the one place that makes
the mappings which chat templates expect. Knows neither a protocol nor a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from server.api.images.sent_image import SentImage
from server.errors import ApiError, ErrorKind

type Part = str | SentImage


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call that the assistant made. Templates expect `arguments` as an object, not as text."""

    id: str
    name: str
    arguments: Mapping[str, Any]

    def for_template(self) -> dict[str, Any]:
        function = {"name": self.name, "arguments": dict(self.arguments)}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message. `extra` holds further fields of the client, which reach the template as is.

    `content` is empty where an assistant's message has only calls or only reasoning. A message with
    the role `tool` carries the result of the call `tool_call_id`. `parts` are the texts and images
    of a message with images, in their order; `content` is then its texts alone.
    """

    role: str
    content: str = ""
    parts: tuple[Part, ...] = ()
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> tuple[SentImage, ...]:
        return tuple(part for part in self.parts if isinstance(part, SentImage))

    def with_parts(self, parts: Sequence[Part]) -> Message:
        """The message with this content. Texts without an image are one text, by lines."""
        content = "\n".join(part for part in parts if isinstance(part, str))
        has_images = any(isinstance(part, SentImage) for part in parts)
        return replace(self, content=content, parts=tuple(parts) if has_images else ())

    def as_parts(self) -> tuple[Part, ...]:
        """The content in parts, also of a message without images."""
        return self.parts or ((self.content,) if self.content else ())

    def for_template(self) -> dict[str, Any]:
        """As a mapping; a field without a value is left out."""
        calls = [call.for_template() for call in self.tool_calls]
        fields = {
            **self.extra,
            "role": self.role,
            "content": [_part(part) for part in self.parts] if self.parts else self.content,
            "name": self.name,
            "tool_calls": calls or None,
            "tool_call_id": self.tool_call_id,
            "reasoning_content": self.reasoning,
        }
        return {name: value for name, value in fields.items() if value is not None}


def results_by_call(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation with each run of results in the order of the calls before it.

    Many chat templates write results without ids: only their order says which call each answers.
    A run with a result of no such call stays as it is.
    """
    ordered: list[Message] = []
    for are_results, run in groupby(messages, lambda message: message.role == "tool"):
        results = list(run)
        if are_results and ordered:
            place = {call.id: i for i, call in enumerate(ordered[-1].tool_calls)}
            if all(result.tool_call_id in place for result in results):
                results.sort(key=lambda result: place[result.tool_call_id or ""])
        ordered += results
    return tuple(ordered)


def check_results(messages: Sequence[Message], where: str) -> None:
    """ApiError for a result of a call that no message before it has; `where` is their field.

    Most templates write a result without its id: it would pass for that of another call.
    """
    called: set[str] = set()
    for i, message in enumerate(messages):
        called.update(call.id for call in message.tool_calls)
        call_id = message.tool_call_id
        if message.role == "tool" and call_id is not None and call_id not in called:
            raise ApiError(
                ErrorKind.INVALID_REQUEST,
                f"{where}[{i}] is the result of the call {call_id[:64]!r}, which no message before"
                " it has; send the assistant's message with that call, too",
                param=f"{where}[{i}]",
            )


def _part(part: Part) -> dict[str, str]:
    """As transformers gives parts to templates."""
    return {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
