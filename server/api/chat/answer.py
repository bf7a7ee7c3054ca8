"""Reads the text of one choice as events: reasoning, content, calls and the end.

Every protocol words these events its own way. Knows neither a protocol nor a template.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from server.api.chat.reasoning import ReasoningSplitter
from server.api.tool_calls.call_log import CallReader
from server.api.tool_calls.events import (
    AnswerEnded,
    AnswerFinishReason,
    ArgumentsDelta,
    CallEnded,
    CallStarted,
    Event,
    ReasoningDelta,
    TextDelta,
)
from server.api.tool_calls.harmony import HarmonyAnswer


@dataclass(slots=True, kw_only=True)
class AnswerReader:
    """Reads one choice. Without `reasoning` and `calls`, all text is content.

    `calls` may give reasoning too, where a format holds both.

    `only_calls` says that a grammar allows nothing else: other text is of a call that was cut.
    Where a grammar holds what follows `begins_call` to a call, a text that was cut there is dropped
    too. `max_calls` drops further calls. `ends_as_call` says whether an answer with calls ends with
    the reason `tool_calls`; a named tool's call ends with `stop`, as OpenAI has it.
    """

    reasoning: ReasoningSplitter | None = None
    calls: CallReader | HarmonyAnswer | None = None
    only_calls: bool = False
    begins_call: str = ""
    max_calls: int | None = None
    ends_as_call: bool = True
    num_calls: int = 0

    def feed(self, text: str) -> list[Event]:
        """Take the next piece of text. Returns what is certain by now."""
        if self.reasoning is None:
            return self._content(text)
        thought, content = self.reasoning.feed(text)
        return [*_thought(thought), *self._content(content)]

    def finish(
        self, finish_reason: AnswerFinishReason, stop_reason: str | int | None
    ) -> list[Event]:
        """The rest, and the end: no more text will come."""
        events: list[Event] = []
        if self.reasoning is not None:
            thought, content = self.reasoning.finish()
            events += [*_thought(thought), *self._content(content)]
        if self.calls is not None:
            events += self._kept(filter(self._is_no_cut_call, self.calls.finish()))
        if self.num_calls and self.ends_as_call and finish_reason == "stop":
            finish_reason = "tool_calls"
        return [*events, AnswerEnded(finish_reason, stop_reason)]

    def _content(self, text: str) -> list[Event]:
        if not text:
            return []
        if self.calls is None:
            return [TextDelta(text)]
        return self._kept(self.calls.feed(text))

    def _is_no_cut_call(self, event: Event) -> bool:
        if not self.begins_call or not isinstance(event, TextDelta):
            return True
        return not event.text.lstrip().startswith(self.begins_call)

    def _kept(self, events: Iterable[Event]) -> list[Event]:
        kept = [event for event in events if self._is_wanted(event)]
        self.num_calls += sum(isinstance(event, CallStarted) for event in kept)
        return kept

    def _is_wanted(self, event: Event) -> bool:
        if isinstance(event, CallStarted | ArgumentsDelta | CallEnded):
            return self.max_calls is None or event.index < self.max_calls
        return not (self.only_calls and isinstance(event, TextDelta))


@dataclass(frozen=True, slots=True)
class FinishedCall:
    """A whole call. `arguments` is JSON text, cut short where the answer was."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeAnswer:
    """All events of one choice, joined."""

    text: str
    reasoning: str
    calls: tuple[FinishedCall, ...]
    finish_reason: AnswerFinishReason
    stop_reason: str | int | None


def read_whole(
    reader: AnswerReader,
    text: str,
    finish_reason: AnswerFinishReason,
    stop_reason: str | int | None,
) -> WholeAnswer:
    """The answer that the whole text of a choice gives."""
    events = [*reader.feed(text), *reader.finish(finish_reason, stop_reason)]
    end = events[-1]
    assert isinstance(end, AnswerEnded)
    return WholeAnswer(
        text="".join(event.text for event in events if isinstance(event, TextDelta)),
        reasoning="".join(event.text for event in events if isinstance(event, ReasoningDelta)),
        calls=tuple(_finished_calls(events)),
        finish_reason=end.finish_reason,
        stop_reason=end.stop_reason,
    )


def _finished_calls(events: Sequence[Event]) -> Iterator[FinishedCall]:
    pieces = [event for event in events if isinstance(event, ArgumentsDelta)]
    for event in events:
        if isinstance(event, CallStarted):
            arguments = "".join(piece.text for piece in pieces if piece.index == event.index)
            yield FinishedCall(event.id, event.name, arguments)


def _thought(text: str) -> list[Event]:
    return [ReasoningDelta(text)] if text else []
