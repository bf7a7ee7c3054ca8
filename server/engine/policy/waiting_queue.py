"""What waits for a slot and KV blocks: the choices of requests, in the order of their turns.

Sources take turns, the requests of a source take turns, and a turn is one choice. It keeps the
order and counts. Who leaves the queue, and when, is decided elsewhere; it knows neither slots nor
blocks, nor which version is served.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from itertools import chain

from server.engine.policy.sequence import LoadedVersion, Sequence

type Request = tuple[int, int]
# In the order of their turns; whoever had one goes to the end.
type Ring = dict[Request, list[Sequence]]


class WaitingQueue:
    """Full with `max_len` requests, however many choices they have.

    `starved` is the sequence that waits for blocks: nobody behind it may take them, of whatever
    version.
    """

    def __init__(self, max_len: int) -> None:
        self.max_len = max_len
        self.starved: Sequence | None = None
        # Whoever was preempted, and the engine's own requests: they wait for nobody's turn.
        self._first: list[Sequence] = []
        self._rings: dict[str, Ring] = {}
        self._num_choices: Counter[Request] = Counter()
        self._num_seqs = 0

    def __iter__(self) -> Iterator[Sequence]:
        """In no order, which is faster than `in_turn`."""
        rings = (ring.values() for ring in self._rings.values())
        return chain(self._first, chain.from_iterable(chain.from_iterable(rings)))

    def __len__(self) -> int:
        return self._num_seqs

    def in_turn(self) -> Iterator[Sequence]:
        """In the order of the turns, as they were at the call of the first `next`."""
        rings = [[tuple(choices) for choices in ring.values()] for ring in self._rings.values()]
        yield from tuple(self._first)
        yield from _take_turns(_take_turns(map(iter, ring)) for ring in rings)

    @property
    def num_requests(self) -> int:
        """Requests with a choice that waits. Safe to read from another thread."""
        return len(self._num_choices)

    @property
    def is_full(self) -> bool:
        return self.num_requests >= self.max_len

    @property
    def is_short_of_blocks(self) -> bool:
        """Whether somebody waits for blocks, or lost its own."""
        return self.starved is not None or bool(self._first)

    def add(self, seqs: list[Sequence], *, first: bool = False) -> None:
        """Queue choices behind all others of their request, or before everybody."""
        self._num_choices.update(seq.request for seq in seqs)
        self._num_seqs += len(seqs)
        if first:
            self._first[:0] = seqs
            return
        for seq in seqs:
            self._rings.setdefault(seq.source, {}).setdefault(seq.request, []).append(seq)

    def remove(self, seq: Sequence) -> None:
        """It will not run. Its request keeps its turn."""
        if self.starved is seq:
            self.starved = None
        self._num_seqs -= 1
        self._num_choices[seq.request] -= 1
        if not self._num_choices[seq.request]:
            del self._num_choices[seq.request]
        if seq in self._first:
            self._first.remove(seq)
            return
        ring = self._rings[seq.source]
        ring[seq.request].remove(seq)
        if not ring[seq.request]:
            del ring[seq.request]
        if not ring:
            del self._rings[seq.source]

    def take(self, seq: Sequence) -> None:
        """It runs. That was the turn of its source and its request, unless it waited for none."""
        is_turn = seq not in self._first
        self.remove(seq)
        if is_turn and seq.source in self._rings:
            ring = self._rings[seq.source] = self._rings.pop(seq.source)
            if seq.request in ring:
                ring[seq.request] = ring.pop(seq.request)

    def bind(self, request: Request, version: LoadedVersion) -> None:
        """One request runs on one version: the choices that still wait follow the first."""
        for seq in self:
            if seq.request == request:
                seq.version = version

    def release_request(self, running: Iterable[Sequence]) -> list[Sequence]:
        """Give up the first request that has not run, no choice of it, if there is one."""
        begun = {seq.request for seq in running}
        begun |= {seq.request for seq in self if seq.first_scheduled_time is not None}
        first = next((seq for seq in self.in_turn() if seq.request not in begun), None)
        if first is None:
            return []
        seqs = [seq for seq in self if seq.request == first.request]
        for seq in seqs:
            self.remove(seq)
        return seqs


def _take_turns[T](iterators: Iterable[Iterator[T]]) -> Iterator[T]:
    """The first of each, then the second of each, and so on."""
    waiting = deque(iterators)
    while waiting:
        turn = waiting.popleft()
        for item in turn:
            yield item
            waiting.append(turn)
            break
