"""Makes the output items of a response from the events of its one choice.

The same writer makes a whole answer and a stream: a stream shows its events, a whole answer only
the items. Knows what items and events look like, but nothing of the response around them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, TypedDict

from server.api.responses import event_bodies as events
from server.api.responses.event_bodies import ResponseEvent
from server.api.responses.response_bodies import (
    CallItem,
    ItemStatus,
    MessageItem,
    OutputItem,
    OutputLogprob,
    OutputText,
    ReasoningItem,
    ReasoningText,
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


class _OpenItem(Protocol):
    """An item that grows."""

    def opening(self) -> Iterator[ResponseEvent]: ...

    def add(self, text: str, logprobs: list[OutputLogprob]) -> Iterator[ResponseEvent]: ...

    def closing(self, status: ItemStatus) -> Iterator[ResponseEvent]: ...

    def item(self, status: ItemStatus) -> OutputItem: ...


class ItemWriter:
    """One choice. `answer_id` makes the items' ids; `items` are those that are done."""

    def __init__(self, answer_id: str) -> None:
        self.items: list[OutputItem] = []
        self._answer_id = answer_id
        self._open: _OpenItem | None = None
        self._logprobs: list[OutputLogprob] = []
        self._num_events = 0

    def number(self) -> int:
        """The number of the next event of the stream."""
        self._num_events += 1
        return self._num_events - 1

    def take_logprobs(self, logprobs: list[OutputLogprob]) -> None:
        """Keep them for the next text: text may come later than its tokens."""
        self._logprobs += logprobs

    def write(self, event: Event, status: ItemStatus = "completed") -> Iterator[ResponseEvent]:
        """Take an event. `status` is of an item that the event ends."""
        match event:
            case TextDelta(text):
                yield from self._opened(_OpenMessage, "msg")
                yield from self._added(text, self._take_logprobs())
            case ReasoningDelta(text):
                yield from self._opened(_OpenReasoning, "rs")
                yield from self._added(text)
            case CallStarted(_, call_id, name):
                yield from self._closed(status)
                yield from self._begun(_OpenCall(self._place("fc"), call_id, name))
            case ArgumentsDelta(_, text):
                yield from self._added(text)
            case CallEnded():
                yield from self._closed(status)
            case AnswerEnded():
                yield from self._ended(status)

    def _ended(self, status: ItemStatus) -> Iterator[ResponseEvent]:
        """An answer without anything is an empty message."""
        if not self.items and self._open is None:
            yield from self._opened(_OpenMessage, "msg")
        if self._logprobs and isinstance(self._open, _OpenMessage):
            self._open.logprobs += self._take_logprobs()
        yield from self._closed(status)

    def _opened(
        self, kind: type[_OpenMessage] | type[_OpenReasoning], prefix: str
    ) -> Iterator[ResponseEvent]:
        if not isinstance(self._open, kind):
            yield from self._closed("completed")
            yield from self._begun(kind(self._place(prefix)))

    def _begun(self, item: _OpenItem) -> Iterator[ResponseEvent]:
        self._open = item
        return item.opening()

    def _added(
        self, text: str, logprobs: list[OutputLogprob] | None = None
    ) -> Iterator[ResponseEvent]:
        assert self._open is not None
        return self._open.add(text, logprobs or [])

    def _closed(self, status: ItemStatus) -> Iterator[ResponseEvent]:
        if self._open is not None:
            yield from self._open.closing(status)
            self.items.append(self._open.item(status))
            self._open = None

    def _take_logprobs(self) -> list[OutputLogprob]:
        taken, self._logprobs = self._logprobs, []
        return taken

    def _place(self, prefix: str) -> _Place:
        index = len(self.items)
        return _Place(f"{prefix}_{self._answer_id}_{index}", index, self.number)


class _Fields(TypedDict):
    """What all events of an item's parts begin with."""

    sequence_number: int
    item_id: str
    output_index: int


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in the response an item stands, and what numbers its events."""

    item_id: str
    output_index: int
    number: Callable[[], int]

    def fields(self) -> _Fields:
        """The fields of the next event of the item."""
        return {
            "sequence_number": self.number(),
            "item_id": self.item_id,
            "output_index": self.output_index,
        }

    def added(self, item: OutputItem) -> ResponseEvent:
        return events.ItemAdded(
            sequence_number=self.number(), output_index=self.output_index, item=item
        )

    def done(self, item: OutputItem) -> ResponseEvent:
        return events.ItemDone(
            sequence_number=self.number(), output_index=self.output_index, item=item
        )


@dataclass(slots=True)
class _OpenMessage:
    place: _Place
    pieces: list[str] = field(default_factory=list)
    logprobs: list[OutputLogprob] = field(default_factory=list)

    def opening(self) -> Iterator[ResponseEvent]:
        place = self.place
        yield place.added(MessageItem(id=place.item_id, status="in_progress", content=[]))
        yield events.PartAdded(**place.fields(), part=OutputText(text=""))

    def add(self, text: str, logprobs: list[OutputLogprob]) -> Iterator[ResponseEvent]:
        self.pieces.append(text)
        self.logprobs += logprobs
        yield events.OutputTextDelta(**self.place.fields(), delta=text, logprobs=logprobs)

    def closing(self, status: ItemStatus) -> Iterator[ResponseEvent]:
        part = self._part()
        yield events.OutputTextDone(**self.place.fields(), text=part.text, logprobs=part.logprobs)
        yield events.PartDone(**self.place.fields(), part=part)
        yield self.place.done(self.item(status))

    def item(self, status: ItemStatus) -> OutputItem:
        return MessageItem(id=self.place.item_id, status=status, content=[self._part()])

    def _part(self) -> OutputText:
        return OutputText(text="".join(self.pieces), logprobs=self.logprobs)


@dataclass(slots=True)
class _OpenReasoning:
    place: _Place
    pieces: list[str] = field(default_factory=list)

    def opening(self) -> Iterator[ResponseEvent]:
        place = self.place
        yield place.added(ReasoningItem(id=place.item_id, status="in_progress", content=[]))
        yield events.PartAdded(**place.fields(), part=ReasoningText(text=""))

    def add(self, text: str, logprobs: list[OutputLogprob]) -> Iterator[ResponseEvent]:
        self.pieces.append(text)
        yield events.ReasoningTextDelta(**self.place.fields(), delta=text)

    def closing(self, status: ItemStatus) -> Iterator[ResponseEvent]:
        part = self._part()
        yield events.ReasoningTextDone(**self.place.fields(), text=part.text)
        yield events.PartDone(**self.place.fields(), part=part)
        yield self.place.done(self.item(status))

    def item(self, status: ItemStatus) -> OutputItem:
        return ReasoningItem(id=self.place.item_id, status=status, content=[self._part()])

    def _part(self) -> ReasoningText:
        return ReasoningText(text="".join(self.pieces))


@dataclass(slots=True)
class _OpenCall:
    place: _Place
    call_id: str
    name: str
    pieces: list[str] = field(default_factory=list)

    def opening(self) -> Iterator[ResponseEvent]:
        yield self.place.added(self.item("in_progress"))

    def add(self, text: str, logprobs: list[OutputLogprob]) -> Iterator[ResponseEvent]:
        self.pieces.append(text)
        yield events.ArgumentsDelta(**self.place.fields(), delta=text)

    def closing(self, status: ItemStatus) -> Iterator[ResponseEvent]:
        arguments = "".join(self.pieces)
        yield events.ArgumentsDone(**self.place.fields(), name=self.name, arguments=arguments)
        yield self.place.done(self.item(status))

    def item(self, status: ItemStatus) -> OutputItem:
        return CallItem(
            id=self.place.item_id,
            call_id=self.call_id,
            name=self.name,
            arguments="".join(self.pieces),
            status=status,
        )
