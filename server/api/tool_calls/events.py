"""What an answer says, as events that every protocol can word: text, reasoning, calls, the end.

The events of one choice come in order. Joined, they do not depend on how the text was cut into
pieces. Knows neither a protocol nor a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

type AnswerFinishReason = Literal["stop", "length", "abort", "error", "tool_calls"]


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of the answer's own text."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of what the model thought before its answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStarted:
    """The model calls the function `name`. Calls of a choice are numbered from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsDelta:
    """More of the JSON text of a call's arguments."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A call's arguments are complete, or the answer ended inside them."""

    index: int


@dataclass(frozen=True, slots=True)
class AnswerEnded:
    """The last event of a choice. `stop_reason` is the stop string or token id that was met."""

    finish_reason: AnswerFinishReason
    stop_reason: str | int | None


type CallEvent = CallStarted | ArgumentsDelta | CallEnded
type ContentEvent = TextDelta | CallEvent
type Event = ContentEvent | ReasoningDelta | AnswerEnded
