"""The messages of a chat request in every form that clients send, read as typed messages.

Content is text or a list of parts. What cannot be read is refused by name: a part that is neither
text nor an image, a message without content, arguments that are no JSON object.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from server.api.chat.call_arguments import arguments_of
from server.api.chat.messages import Message, Part, ToolCall
from server.api.http.errors.union_errors import said_plainly
from server.api.images.sent_image import SentImage, image_of_url
from server.api.requests.validation import invalid

_ROLE = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TEXT_TYPES = ("text", "input_text", "output_text")
_IMAGE_TYPES = ("image_url", "input_image")


class _Wire(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class ImageUrlBody(_Wire):
    """`detail` is taken, but the model reads every image at its one size."""

    url: str
    detail: str | None = None


class ContentPart(_Wire):
    """One part of a content: text, an image, or a refusal that the assistant gave."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: Annotated[
        str | ImageUrlBody | None, said_plainly("must be a URL, or an object that has one as url")
    ] = None

    def read(self, role: str, where: str, position: int) -> Part:
        if self.type in _TEXT_TYPES and self.text is not None:
            return self.text
        if self.type == "refusal" and role == "assistant" and self.refusal is not None:
            return self.refusal
        if self.type in _IMAGE_TYPES:
            return self._image(f"{where}[{position}]")
        if self.type in (*_TEXT_TYPES, "refusal"):
            raise invalid(f"{where} has a part of type {self.type!r} without its text", where)
        raise invalid(
            f"{where} has a part of type {self.type[:64]!r}; this server reads parts of type text"
            " and image_url",
            where,
        )

    def _image(self, where: str) -> SentImage:
        if self.image_url is None:
            raise invalid(f"{where} is of type {self.type!r} without its image_url", where)
        url = self.image_url if isinstance(self.image_url, str) else self.image_url.url
        return image_of_url(url, where)


class FunctionCallBody(_Wire):
    name: str
    arguments: Annotated[
        str | dict[str, Any] | None, said_plainly("must be the JSON text of an object")
    ] = None

    def read(self, call_id: str, where: str) -> ToolCall:
        return ToolCall(id=call_id, name=self.name, arguments=arguments_of(self.arguments, where))


class ToolCallBody(_Wire):
    id: str = ""
    type: str | None = None
    function: FunctionCallBody | None = None

    def read(self, where: str) -> ToolCall:
        if self.function is None or self.type not in (None, "function"):
            raise invalid(f"{where} is of type {self.type!r}; calls are of type function", where)
        return self.function.read(self.id, f"{where}.function")


Content = Annotated[
    str | list[ContentPart] | None,
    said_plainly("must be a string, or a list of parts that are text or images"),
]


class MessageBody(_Wire):
    """One message. Further fields reach the model's chat template as they are."""

    role: str
    content: Content = None
    name: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: Any = None
    tool_calls: list[ToolCallBody] | None = None
    function_call: FunctionCallBody | None = None
    tool_call_id: str | None = None
    prefix: bool | None = Field(
        None, description="Go on with this last message, as continue_final_message does."
    )
    partial: bool | None = Field(None, description="Another name of prefix.")

    @property
    def continues(self) -> bool:
        """Whether the answer is to go on with this message."""
        return bool(self.prefix or self.partial)

    def read(self, position: int) -> Message:
        """In the service's words. ApiError that names the message by its position."""
        where = f"messages[{position}]"
        if not _ROLE.fullmatch(self.role):
            raise invalid(f"{where} has the role {self.role[:80]!r}, which is none", where)
        message = Message(
            role="tool" if self.role == "function" else self.role,
            name=self.name,
            tool_calls=self._calls(where),
            tool_call_id=self._result_of(),
            reasoning=self._thought,
            extra={k: v for k, v in (self.model_extra or {}).items() if v is not None},
        )
        return message.with_parts(self._content(where))

    @property
    def _thought(self) -> str | None:
        """Other servers give `reasoning` other types too."""
        thought = self.reasoning_content or self.reasoning
        return thought if isinstance(thought, str) else None

    def _content(self, where: str) -> list[Part]:
        if isinstance(self.content, str):
            return [self.content]
        if self.content:
            place = f"{where}.content"
            return [part.read(self.role, place, i) for i, part in enumerate(self.content)]
        if self.role == "assistant" and self.refusal:
            return [self.refusal]
        says_something = self.tool_calls or self.function_call or self._thought
        if self.role in ("tool", "function"):
            raise invalid(
                f'{where} has no content; give the result of the call, "" if it has none',
                f"{where}.content",
            )
        if self.role != "assistant" or not says_something:
            raise invalid(
                f"{where} has no content; only an assistant's message with tool_calls may lack it",
                f"{where}.content",
            )
        return []

    def _calls(self, where: str) -> tuple[ToolCall, ...]:
        if self.role != "assistant" and (self.tool_calls or self.function_call):
            raise invalid(f"{where} has tool_calls, but its role is {self.role!r}", where)
        if self.function_call is not None and not self.tool_calls:
            name = self.function_call.name
            return (self.function_call.read(name, f"{where}.function_call"),)
        return tuple(
            call.read(f"{where}.tool_calls[{i}]") for i, call in enumerate(self.tool_calls or ())
        )

    def _result_of(self) -> str | None:
        """The call that this message answers. The older role `function` has a name instead."""
        return self.name if self.role == "function" else self.tool_call_id
