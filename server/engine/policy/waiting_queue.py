"""What waits for a slot and KV blocks: the choices of requests, first come first served.

It keeps the order and counts. Who leaves the queue, and when, is decided elsewhere; it knows
neither slots nor blocks, nor which version is served.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from server.engine.policy.sequence import LoadedVersion, Sequence


class WaitingQueue:
    """Full with `max_len` requests, however many choices they have.

    `starved` is the sequence that waits for blocks: nobody behind it may take them, of whatever
    version.
    """

    def __init__(self, max_len: int) -> None:
        self.max_len = max_len
        self.starved: Sequence | None = None
        self._seqs: list[Sequence] = []

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._seqs)

    def __len__(self) -> int:
        return len(self._seqs)

    @property
    def num_requests(self) -> int:
        """Requests with a choice that waits. Safe to read from another thread."""
        return len({seq.request for seq in tuple(self._seqs)})

    @property
    def is_full(self) -> bool:
        return len(self._seqs) >= self.max_len and self.num_requests >= self.max_len

    def add(self, seqs: list[Sequence], *, first: bool = False) -> None:
        """Queue choices at the end, or at the head."""
        end = 0 if first else len(self._seqs)
        self._seqs[end:end] = seqs

    def remove(self, seq: Sequence) -> None:
        self._seqs.remove(seq)

    def bind(self, request: tuple[int, int], version: LoadedVersion) -> None:
        """One request runs on one version: the choices that still wait follow the first."""
        for seq in self._seqs:
            if seq.request == request:
                seq.version = version

    def release_request(self, running: Iterable[Sequence]) -> list[Sequence]:
        """Give up the first request that has not run, no choice of it, if there is one."""
        begun = {seq.request for seq in running}
        begun |= {seq.request for seq in self._seqs if seq.first_scheduled_time is not None}
        first = next((seq for seq in self._seqs if seq.request not in begun), None)
        if first is None:
            return []
        seqs = [seq for seq in self._seqs if seq.request == first.request]
        self._seqs = [seq for seq in self._seqs if seq not in seqs]
        self.starved = None if self.starved in seqs else self.starved
        return seqs
