"""Makes the content blocks of a message from the events of its one choice.

The same writer makes a whole answer and a stream: a stream shows its events, a whole answer only
the blocks. Knows nothing of the message around them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pydantic_core import from_json

from server.api.anthropic.response_bodies import (
    BlockDelta,
    BlockStart,
    BlockStop,
    ContentBlock,
    InputPiece,
    MessageEvent,
    Piece,
    SignaturePiece,
    TextBlock,
    TextPiece,
    ThinkingBlock,
    ThinkingPiece,
    ToolUseBlock,
)
from server.api.tool_calls.events import (
    AnswerEnded,
    ArgumentsDelta,
    CallEnded,
    CallStarted,
    Event,
    ReasoningDelta,
    TextDelta,
)


@dataclass(slots=True)
class _OpenBlock:
    """A block that grows: as it began, and the pieces of its text since."""

    start: ContentBlock
    pieces: list[str] = field(default_factory=list)

    def block(self, signature: str) -> ContentBlock:
        text = "".join(self.pieces)
        match self.start:
            case TextBlock():
                return TextBlock(text=text)
            case ThinkingBlock():
                return ThinkingBlock(thinking=text, signature=signature)
            case ToolUseBlock(id=use_id, name=name):
                return ToolUseBlock(id=use_id, name=name, input=_input(text))


class BlockWriter:
    """One choice. `blocks` are those that are done. `signature` is that of thinking blocks.

    Without `shows_thinking`, thinking blocks are empty.
    """

    def __init__(self, signature: str, *, shows_thinking: bool = True) -> None:
        self.blocks: list[ContentBlock] = []
        self._signature = signature
        self._shows_thinking = shows_thinking
        self._open: _OpenBlock | None = None

    @property
    def has_tool_use(self) -> bool:
        return any(isinstance(block, ToolUseBlock) for block in self.blocks)

    def write(self, event: Event) -> Iterator[MessageEvent]:
        match event:
            case TextDelta(text):
                yield from self._opened(TextBlock(text=""))
                yield self._added(text, TextPiece(text))
            case ReasoningDelta(text):
                yield from self._opened(ThinkingBlock(thinking="", signature=""))
                if self._shows_thinking:
                    yield self._added(text, ThinkingPiece(text))
            case CallStarted(_, call_id, name):
                yield from self._closed()
                yield from self._opened(ToolUseBlock(id=call_id, name=name, input={}))
            case ArgumentsDelta(_, text):
                yield self._added(text, InputPiece(text))
            case CallEnded():
                yield from self._closed()
            case AnswerEnded():
                # An answer without anything is an empty text.
                if not self.blocks and self._open is None:
                    yield from self._opened(TextBlock(text=""))
                yield from self._closed()

    def _opened(self, start: ContentBlock) -> Iterator[MessageEvent]:
        if self._open is not None and type(self._open.start) is type(start):
            return
        yield from self._closed()
        self._open = _OpenBlock(start)
        yield BlockStart(len(self.blocks), start)

    def _added(self, text: str, piece: Piece) -> MessageEvent:
        assert self._open is not None
        self._open.pieces.append(text)
        return BlockDelta(len(self.blocks), piece)

    def _closed(self) -> Iterator[MessageEvent]:
        if self._open is None:
            return
        index = len(self.blocks)
        if isinstance(self._open.start, ThinkingBlock):
            yield BlockDelta(index, SignaturePiece(self._signature))
        yield BlockStop(index)
        self.blocks.append(self._open.block(self._signature))
        self._open = None


def _input(text: str) -> dict[str, object]:
    """The arguments as an object: of an answer that was cut short, what is certain of them."""
    try:
        read = from_json(text, allow_partial=True)
    except ValueError:
        read = None
    return read if isinstance(read, dict) else {}
