"""What waits with one priority: the choices of requests, in the order of their turns.

Sources take turns, the requests of a source take turns, and a turn is one choice. A new request
goes before those of its source whose first token is due later. Knows no other priority, and neither
slots nor blocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, takewhile

from server.engine.policy.sequences.sequence import Sequence

type Request = tuple[int, int]
# In the order of their turns; whoever had one goes to the end.
type Ring = dict[Request, list[Sequence]]


class Band:
    """`first` has those that wait for nobody's turn: preempted ones, and the engine's own."""

    def __init__(self) -> None:
        self.first: list[Sequence] = []
        self._rings: dict[str, Ring] = {}

    def __iter__(self) -> Iterator[Sequence]:
        """In no order, which is faster than `in_turn`."""
        rings = (ring.values() for ring in self._rings.values())
        return chain(self.first, chain.from_iterable(chain.from_iterable(rings)))

    def __bool__(self) -> bool:
        return bool(self.first or self._rings)

    @property
    def sources(self) -> Iterable[str]:
        """Whose turn may come."""
        return self._rings.keys()

    def requests_of(self, source: str) -> Ring:
        return self._rings.get(source, {})

    def in_turn(self) -> Iterator[Sequence]:
        """In the order of the turns, as they are at this call."""
        rings = [[tuple(choices) for choices in ring.values()] for ring in self._rings.values()]
        turns = _take_turns(_take_turns(map(iter, ring)) for ring in rings)
        return chain(tuple(self.first), turns)

    def heads(self) -> Iterator[Sequence]:
        """A choice of each request, and each that waits for no turn. In no order."""
        yield from self.first
        for ring in self._rings.values():
            for choices in ring.values():
                yield choices[0]

    def num_ahead(self, seq: Sequence) -> int:
        """The requests whose turn comes before that of `seq`, once it is added."""
        source, ring = seq.source, self.requests_of(seq.source)
        num_own = len(ring) - len(_due_after(ring, seq.due))
        others = (len(ring) for name, ring in self._rings.items() if name != source)
        return len(self.first) + num_own + sum(min(num, num_own + 1) for num in others)

    def add(self, seq: Sequence) -> None:
        """Behind all others of its request. A new request goes where it is due in its source."""
        ring = self._rings.setdefault(seq.source, {})
        later = [] if seq.request in ring else _due_after(ring, seq.due)
        ring.setdefault(seq.request, []).append(seq)
        for request in later:
            ring[request] = ring.pop(request)

    def remove(self, seq: Sequence) -> None:
        """It will not run. Its request keeps its turn."""
        if seq in self.first:
            self.first.remove(seq)
            return
        ring = self._rings[seq.source]
        ring[seq.request].remove(seq)
        if not ring[seq.request]:
            del ring[seq.request]
        if not ring:
            del self._rings[seq.source]

    def take(self, seq: Sequence) -> None:
        """It runs. That was the turn of its source and its request, unless it waited for none."""
        is_turn = seq not in self.first
        self.remove(seq)
        if is_turn and seq.source in self._rings:
            ring = self._rings[seq.source] = self._rings.pop(seq.source)
            if seq.request in ring:
                ring[seq.request] = ring.pop(seq.request)


def _due_after(ring: Ring, due: float) -> list[Request]:
    """The requests behind the last one that is due no later than this, in their order."""
    behind = takewhile(lambda request: ring[request][0].due > due, reversed(ring))
    return list(behind)[::-1]


def _take_turns[T](iterators: Iterable[Iterator[T]]) -> Iterator[T]:
    """The first of each, then the second of each, and so on."""
    waiting = deque(iterators)
    while waiting:
        turn = waiting.popleft()
        for item in turn:
            yield item
            waiting.append(turn)
            break
