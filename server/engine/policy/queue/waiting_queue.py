"""What waits for a slot and KV blocks: a band for each priority, the highest first.

It keeps the order and counts. Who leaves the queue, and when, is decided elsewhere; it knows
neither slots nor blocks, nor which version is served.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain

from server.engine.policy.queue.band import Band, Request
from server.engine.policy.sequences.sequence import LoadedVersion, Sequence


class WaitingQueue:
    """Full with `max_len` requests, however many choices they have.

    Then only a source with less than its part still has room, up to twice as many requests in all.
    `starved` is the sequence that waits for blocks: nobody behind it may take them, of whatever
    version.
    """

    def __init__(self, max_len: int) -> None:
        self.max_len = max_len
        self.starved: Sequence | None = None
        # By priority; none is empty.
        self._bands: dict[int, Band] = {}
        self._num_choices: Counter[Request] = Counter()
        self._num_seqs = 0

    def __iter__(self) -> Iterator[Sequence]:
        """In no order, which is faster than `in_turn`."""
        return chain.from_iterable(self._bands.values())

    def __len__(self) -> int:
        return self._num_seqs

    def in_turn(self) -> Iterator[Sequence]:
        """In the order of the turns, as they were at the call of the first `next`."""
        yield from chain.from_iterable([band.in_turn() for band in self._highest_first()])

    @property
    def num_requests(self) -> int:
        """Requests with a choice that waits. Safe to read from another thread."""
        return len(self._num_choices)

    @property
    def is_full(self) -> bool:
        return self.num_requests >= self.max_len

    def has_room_for(self, source: str) -> bool:
        """Whether a request of `source` may wait too: one source must not keep all others out."""
        if not self.is_full:
            return True
        sources = {source}.union(*(band.sources for band in self._bands.values()))
        num_own = sum(len(band.requests_of(source)) for band in self._bands.values())
        return self.num_requests < 2 * self.max_len and num_own < max(
            1, self.max_len // len(sources)
        )

    @property
    def is_short_of_blocks(self) -> bool:
        """Whether somebody waits for blocks, or one of the highest priority lost its own."""
        first = next((band.first for band in self._highest_first()), [])
        return self.starved is not None or any(
            seq.first_scheduled_time is not None for seq in first
        )

    def heads(self) -> Iterator[Sequence]:
        """A choice of each request that stands for the others: they have one version and deadline.

        Preempted choices come one by one. In no order.
        """
        return chain.from_iterable(band.heads() for band in self._bands.values())

    def alike(self, head: Sequence) -> list[Sequence]:
        """The choices that `head` stands for, itself included."""
        band = self._bands[head.priority]
        if head in band.first:
            return [head]
        return list(band.requests_of(head.source)[head.request])

    def ahead_of(self, priority: int) -> Iterator[Sequence]:
        """What `heads` has of this priority and of those above."""
        return chain.from_iterable(
            band.heads() for each, band in self._bands.items() if each >= priority
        )

    def num_ahead(self, seq: Sequence) -> int:
        """The requests whose turn comes before that of `seq`, once it is added."""
        higher = (band for each, band in self._bands.items() if each > seq.priority)
        band = self._bands.get(seq.priority, Band())
        return sum(sum(1 for _ in each.heads()) for each in higher) + band.num_ahead(seq)

    def add(self, seqs: list[Sequence], *, first: bool = False) -> None:
        """Queue choices behind all others of their request, or before all of their priority."""
        self._num_choices.update(seq.request for seq in seqs)
        self._num_seqs += len(seqs)
        for seq in reversed(seqs) if first else seqs:
            band = self._bands.setdefault(seq.priority, Band())
            if first:
                band.first.insert(0, seq)
            else:
                band.add(seq)

    def remove(self, seq: Sequence) -> None:
        """It will not run. Its request keeps its turn."""
        self._forget(seq)
        self._bands[seq.priority].remove(seq)
        self._drop_empty(seq.priority)

    def take(self, seq: Sequence) -> None:
        """It runs. That was the turn of its source and its request, unless it waited for none."""
        self._forget(seq)
        self._bands[seq.priority].take(seq)
        self._drop_empty(seq.priority)

    def bind(self, request: Request, version: LoadedVersion) -> None:
        """One request runs on one version: the choices that still wait follow the first."""
        for seq in self._choices_of(request):
            seq.version = version

    def release_request(self, running: Iterable[Sequence]) -> list[Sequence]:
        """Give up the first request that has not run, no choice of it, if there is one.

        The engine's own requests stay: elsewhere they would lose their place before all others.
        """
        begun = self._begun(running)
        first = next((seq for seq in self.in_turn() if seq.request not in begun), None)
        seqs = [] if first is None else self._choices_of(first.request)
        for seq in seqs:
            self.remove(seq)
        return seqs

    def sheddable_below(self, priority: int, running: Iterable[Sequence]) -> list[Sequence]:
        """The choices of the request that is shed for one of `priority`; none if none may be.

        That is the last one of the lowest priority, of those below zero that have not run.
        """
        lowest = min(self._bands, default=0)
        if lowest >= min(priority, 0):
            return []
        begun = self._begun(running)
        waiting = [seq for seq in self._bands[lowest].in_turn() if seq.request not in begun]
        return self._choices_of(waiting[-1].request) if waiting else []

    def _choices_of(self, request: Request) -> list[Sequence]:
        return [seq for seq in self if seq.request == request]

    def _begun(self, running: Iterable[Sequence]) -> set[Request]:
        """The requests that have run, or wait for no turn."""
        begun = {seq.request for seq in running}
        begun |= {seq.request for seq in self if seq.first_scheduled_time is not None}
        return begun | {seq.request for band in self._bands.values() for seq in band.first}

    def _highest_first(self) -> list[Band]:
        return [self._bands[priority] for priority in sorted(self._bands, reverse=True)]

    def _forget(self, seq: Sequence) -> None:
        if self.starved is seq:
            self.starved = None
        self._num_seqs -= 1
        self._num_choices[seq.request] -= 1
        if not self._num_choices[seq.request]:
            del self._num_choices[seq.request]

    def _drop_empty(self, priority: int) -> None:
        if not self._bands[priority]:
            del self._bands[priority]
