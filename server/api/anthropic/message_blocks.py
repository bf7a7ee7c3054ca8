"""The messages of an Anthropic request, read as typed messages.

Their content is text or blocks. Results of tools come as blocks of the user, and become messages of
their own; turns of one role are joined, as Anthropic joins them. What cannot be read is refused by
its type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict

from server.api.chat.messages import Message, Part, ToolCall
from server.api.http.errors.union_errors import or_text, said_plainly
from server.api.images.sent_image import SentImage, image_of_base64, image_of_url
from server.api.requests.validation import invalid


class _Wire(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class ImageSourceBody(_Wire):
    """Where an image is: in `data` as base64, or at `url`."""

    type: str
    media_type: str | None = None
    data: str | None = None
    url: str | None = None

    def read(self, where: str) -> SentImage:
        place = f"{where}.source"
        match self.type:
            case "base64":
                data = _required(self.data, "data", place)
                return image_of_base64(data, self.media_type or "", where)
            case "url":
                return image_of_url(_required(self.url, "url", place), where)
        raise invalid(
            f"{place} is of type {self.type[:64]!r}; this server reads images of type base64 and"
            " url",
            place,
        )


# A search_result's is a text. Its type is what is refused then, and not this field.
Source = Annotated[
    ImageSourceBody | str | None, said_plainly("must be an object with a type, and data or url")
]


class ResultBlock(_Wire):
    """A part of a tool's result, or of the system's text."""

    type: str
    text: str | None = None
    source: Source = None


def _as_block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


TextBlocks = Annotated[
    list[ResultBlock] | None,
    or_text(list[ResultBlock] | None, _as_block, "must be a string or a list of text blocks"),
]


class Block(_Wire):
    """One block. Which fields it must have depends on `type`."""

    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: TextBlocks = None
    is_error: bool | None = None
    source: Source = None


class AnthropicMessageBody(_Wire):
    role: Literal["user", "assistant", "system"]
    content: Annotated[
        list[Block],
        or_text(list[Block], _as_block, "must be a string or a list of content blocks"),
    ]


def read_messages(
    system: TextBlocks, bodies: Sequence[AnthropicMessageBody]
) -> tuple[Message, ...]:
    """The conversation; `system` is its first message. ApiError names a message or a block."""
    reader = _Reader()
    if text := _joined(system, "system"):
        reader.add(Message(role="system", content=text))
    for position, body in enumerate(bodies):
        reader.read(body, f"messages[{position}]")
    last = reader.messages[-1] if reader.messages else None
    if last is not None and last.tool_calls:
        raise invalid(
            f"the last message uses the tool {last.tool_calls[0].name[:64]!r}; a message with its"
            " tool_result must follow",
            "messages",
        )
    return tuple(reader.messages)


class _Reader:
    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._used: dict[str, str] = {}

    def read(self, body: AnthropicMessageBody, where: str) -> None:
        if not body.content:
            raise invalid(f"{where} has no content", f"{where}.content")
        for position, block in enumerate(body.content):
            self._read_block(block, body.role, f"{where}.content[{position}]")

    def add(self, message: Message) -> None:
        """Add a message to the turn of its role, or begin the next turn."""
        last = self.messages[-1] if self.messages else None
        if last is None or last.role != message.role or message.role == "tool":
            self.messages.append(message)
            return
        joined = last.with_parts((*last.as_parts(), *message.as_parts()))
        self.messages[-1] = replace(
            joined,
            tool_calls=last.tool_calls + message.tool_calls,
            reasoning="\n".join(filter(None, (last.reasoning, message.reasoning))) or None,
        )

    def _read_block(self, block: Block, role: str, where: str) -> None:
        match (block.type, role):
            case ("text", _):
                self.add(Message(role=role, content=_required(block.text, "text", where)))
            case ("image", "user"):
                self.add(Message(role=role).with_parts([_image(block.source, where)]))
            case ("thinking", "assistant"):
                self.add(Message(role=role, reasoning=_required(block.thinking, "thinking", where)))
            case ("redacted_thinking", "assistant"):
                # Another server's thinking, which this model cannot read.
                return
            case ("tool_use", "assistant"):
                self._read_use(block, where)
            case ("tool_result", "user"):
                self._read_result(block, where)
            case (kind, _):
                raise invalid(
                    f"{where} is of type {kind[:64]!r} in a message of the {role}; this server"
                    " reads text, image, tool_use, tool_result and thinking",
                    where,
                )

    def _read_use(self, block: Block, where: str) -> None:
        use_id = _required(block.id, "id", where)
        name = _required(block.name, "name", where)
        call = ToolCall(id=use_id, name=name, arguments=block.input or {})
        self._used[use_id] = name
        self.add(Message(role="assistant", tool_calls=(call,)))

    def _read_result(self, block: Block, where: str) -> None:
        use_id = _required(block.tool_use_id, "tool_use_id", where)
        if use_id not in self._used:
            raise invalid(
                f"{where} is the result of {use_id[:64]!r}, which no tool_use before it has",
                f"{where}.tool_use_id",
            )
        parts = _parts(block.content, f"{where}.content")
        message = Message(role="tool", name=self._used[use_id], tool_call_id=use_id)
        message = message.with_parts(parts)
        if block.is_error and not message.content.lower().startswith("error"):
            # Chat templates have no other place to say so.
            first = [f"Error: {message.content}"] if not message.parts else ["Error: ", *parts]
            message = message.with_parts(first)
        self.add(message)


def _parts(blocks: TextBlocks, where: str) -> list[Part]:
    return [
        _image(block.source, f"{where}[{i}]")
        if block.type == "image"
        else _text(block, f"{where}[{i}]")
        for i, block in enumerate(blocks or ())
    ]


def _image(source: Source, where: str) -> SentImage:
    if not isinstance(source, ImageSourceBody):
        raise invalid(
            f"{where} has no source that is an object with a type, and data or url",
            f"{where}.source",
        )
    return source.read(where)


def _joined(blocks: TextBlocks, where: str) -> str:
    return "\n".join(_text(block, f"{where}[{i}]") for i, block in enumerate(blocks or ()))


def _text(block: ResultBlock, where: str) -> str:
    if block.type != "text":
        raise invalid(f"{where} is of type {block.type[:64]!r}; only text is read here", where)
    return _required(block.text, "text", where)


def _required(value: str | None, name: str, where: str) -> str:
    if value is None:
        raise invalid(f"{where} has no {name}", f"{where}.{name}")
    return value
