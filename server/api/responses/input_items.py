"""The input of a response in every form that clients send, read as typed messages.

One turn of the assistant may be several items: reasoning, a message, calls. They become one message
again, because chat templates render turns. What cannot be read is refused by its type or place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict

from server.api.chat.call_arguments import arguments_of
from server.api.chat.messages import Message, Part, ToolCall
from server.api.http.errors.union_errors import or_text
from server.api.images.sent_image import SentImage, image_of_url
from server.api.requests.validation import invalid

_TEXT_TYPES = ("input_text", "output_text", "text", "reasoning_text", "summary_text")
_ROLES = ("user", "assistant", "system", "developer")


class _Wire(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class InputPart(_Wire):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None

    def read(self, where: str) -> str:
        """A text. ApiError for any other part."""
        text = self.refusal if self.type == "refusal" else self.text
        if self.type not in (*_TEXT_TYPES, "refusal"):
            raise invalid(
                f"{where} has a part of type {self.type[:64]!r}; this server reads text here, and"
                " input_image in messages and outputs of functions",
                where,
            )
        if text is None:
            raise invalid(f"{where} has a part of type {self.type!r} without its text", where)
        return text

    def read_part(self, where: str, position: int) -> Part:
        """A text or an image."""
        if self.type != "input_image":
            return self.read(where)
        return self._image(f"{where}[{position}]")

    def _image(self, where: str) -> SentImage:
        if self.image_url is None:
            raise invalid(
                f"{where} is an image without image_url; this server stores no files, so send the"
                " image itself",
                where,
            )
        return image_of_url(self.image_url, where)


def _as_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _as_item(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": text}


Parts = Annotated[
    list[InputPart] | None,
    or_text(list[InputPart] | None, _as_part, "must be a string or a list of parts"),
]


class InputItem(_Wire):
    """One item. Which fields it must have depends on `type`; a message may leave `type` out."""

    type: str | None = None
    role: str | None = None
    content: Parts = None
    summary: list[InputPart] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: Parts = None

    @property
    def kind(self) -> str:
        return self.type or ("message" if self.role else "")

    def parts(self, parts: list[InputPart] | None, where: str) -> list[Part]:
        if not parts:
            raise invalid(f"{where} is missing or empty", where)
        return [part.read_part(where, i) for i, part in enumerate(parts)]


Input = Annotated[
    list[InputItem], or_text(list[InputItem], _as_item, "must be a string or a list of items")
]


def read_input(given: list[InputItem], instructions: str | None) -> tuple[Message, ...]:
    """The conversation; `instructions` are its first system message. ApiError names an item."""
    reader = _Reader()
    if instructions:
        reader.messages.append(Message(role="system", content=instructions))
    if not given:
        raise invalid("input must not be empty", "input")
    for position, item in enumerate(given):
        reader.read(item, f"input[{position}]")
    reader.end_turn()
    return tuple(reader.messages)


@dataclass(slots=True)
class _Turn:
    """One turn of the assistant, as far as it has been read."""

    reasoning: list[str] = field(default_factory=list)
    content: list[Part] | None = None
    calls: list[ToolCall] = field(default_factory=list)

    @property
    def takes_more(self) -> bool:
        """Whether reasoning or a message may still belong to this turn."""
        return self.content is None and not self.calls

    def message(self) -> Message:
        message = Message(
            role="assistant",
            tool_calls=tuple(self.calls),
            reasoning="\n".join(self.reasoning) or None,
        )
        return message.with_parts(self.content or ())


class _Reader:
    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._turn: _Turn | None = None
        self._called: dict[str, str] = {}

    def read(self, item: InputItem, where: str) -> None:
        match item.kind:
            case "message":
                self._read_message(item, where)
            case "reasoning":
                self._read_reasoning(item, where)
            case "function_call":
                self._read_call(item, where)
            case "function_call_output":
                self._read_output(item, where)
            case "item_reference":
                raise invalid(
                    f"{where} refers to a stored item, but this server stores none; send the item"
                    " itself",
                    where,
                )
            case kind:
                raise invalid(
                    f"{where} is of type {kind[:64]!r}; this server reads items of type message,"
                    " function_call, function_call_output and reasoning",
                    where,
                )

    def end_turn(self) -> None:
        if self._turn is not None and (self._turn.reasoning or not self._turn.takes_more):
            self.messages.append(self._turn.message())
        self._turn = None

    def _read_message(self, item: InputItem, where: str) -> None:
        if item.role not in _ROLES:
            raise invalid(
                f"{where} has the role {(item.role or '')[:64]!r}; it must be one of"
                f" {', '.join(_ROLES)}",
                f"{where}.role",
            )
        content = item.parts(item.content, f"{where}.content")
        if item.role == "assistant":
            self._open_turn().content = content
        else:
            self.end_turn()
            self.messages.append(Message(role=item.role).with_parts(content))

    def _read_reasoning(self, item: InputItem, where: str) -> None:
        """What another server has encrypted cannot be read, and is no text of this model."""
        parts = item.content or item.summary
        if texts := [part.read(where) for part in parts or ()]:
            self._open_turn().reasoning += texts

    def _read_call(self, item: InputItem, where: str) -> None:
        call_id, name = _required(item.call_id, "call_id", where), item.name
        call = ToolCall(
            id=call_id,
            name=_required(name, "name", where),
            arguments=arguments_of(item.arguments, where),
        )
        self._called[call_id] = call.name
        if self._turn is None:
            self._turn = _Turn()
        self._turn.calls.append(call)

    def _read_output(self, item: InputItem, where: str) -> None:
        call_id = _required(item.call_id, "call_id", where)
        if call_id not in self._called:
            raise invalid(
                f"{where} answers the call {call_id[:64]!r}, which no function_call before it has",
                f"{where}.call_id",
            )
        self.end_turn()
        content = [] if item.output == [] else item.parts(item.output, f"{where}.output")
        message = Message(role="tool", name=self._called[call_id], tool_call_id=call_id)
        self.messages.append(message.with_parts(content))

    def _open_turn(self) -> _Turn:
        if self._turn is None or not self._turn.takes_more:
            self.end_turn()
            self._turn = _Turn()
        return self._turn


def _required(value: str | None, name: str, where: str) -> str:
    if not value:
        raise invalid(f"{where} has no {name}", f"{where}.{name}")
    return value
