"""What clients get from /v1/messages: the message and its blocks, the events of a stream, errors.

These structs are both what is encoded and what the OpenAPI document shows. An event's tag is both
its name and its field `type`.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from msgspec import UNSET, Struct, UnsetType

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
ErrorType = Literal[
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "conflict_error",
    "request_too_large",
    "rate_limit_error",
    "api_error",
    "timeout_error",
    "overloaded_error",
]


class TextBlock(Struct, frozen=True, kw_only=True, tag_field="type", tag="text"):
    text: str


class ThinkingBlock(Struct, frozen=True, kw_only=True, tag_field="type", tag="thinking"):
    """`signature` proves nothing: some clients drop thinking without one."""

    thinking: str
    signature: str


class ToolUseBlock(Struct, frozen=True, kw_only=True, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]


type ContentBlock = TextBlock | ThinkingBlock | ToolUseBlock


class ThinkingDetails(Struct, frozen=True):
    thinking_tokens: int


class MessageUsage(Struct, frozen=True, kw_only=True):
    """`input_tokens` counts the whole prompt, also what the prefix cache had of it."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    output_tokens_details: ThinkingDetails | UnsetType = UNSET


class MessageAnswer(Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    """Anthropic's fields, then this server's."""

    id: str
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[ContentBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage
    model_version: str
    seed: int


class TokenCount(Struct, frozen=True):
    input_tokens: int


class MessageStart(Struct, frozen=True, tag_field="type", tag="message_start"):
    message: MessageAnswer


class Ping(Struct, frozen=True, tag_field="type", tag="ping"):
    pass


class BlockStart(Struct, frozen=True, tag_field="type", tag="content_block_start"):
    index: int
    content_block: ContentBlock


class TextPiece(Struct, frozen=True, tag_field="type", tag="text_delta"):
    text: str


class ThinkingPiece(Struct, frozen=True, tag_field="type", tag="thinking_delta"):
    thinking: str


class SignaturePiece(Struct, frozen=True, tag_field="type", tag="signature_delta"):
    signature: str


class InputPiece(Struct, frozen=True, tag_field="type", tag="input_json_delta"):
    partial_json: str


type Piece = TextPiece | ThinkingPiece | SignaturePiece | InputPiece


class BlockDelta(Struct, frozen=True, tag_field="type", tag="content_block_delta"):
    index: int
    delta: Piece


class BlockStop(Struct, frozen=True, tag_field="type", tag="content_block_stop"):
    index: int


class MessageEnd(Struct, frozen=True):
    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(Struct, frozen=True, tag_field="type", tag="message_delta"):
    """`usage` counts the whole message."""

    delta: MessageEnd
    usage: MessageUsage


class MessageStop(Struct, frozen=True, tag_field="type", tag="message_stop"):
    pass


class ModelEntry(Struct, frozen=True, kw_only=True, tag_field="type", tag="model"):
    id: str
    display_name: str
    created_at: str


class ModelPage(Struct, frozen=True, kw_only=True):
    data: list[ModelEntry]
    has_more: bool
    first_id: str | None
    last_id: str | None


class Fault(Struct, frozen=True):
    type: ErrorType
    message: str


class MessageError(Struct, frozen=True, kw_only=True, tag_field="type", tag="error"):
    """An answer that is an error, and the event of a stream that failed."""

    error: Fault
    request_id: str


type MessageEvent = (
    MessageStart
    | Ping
    | BlockStart
    | BlockDelta
    | BlockStop
    | MessageDelta
    | MessageStop
    | MessageError
)
EVENTS: tuple[type[Struct], ...] = get_args(MessageEvent.__value__)
