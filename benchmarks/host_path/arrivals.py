"""When tokens arrived, stream by stream, and what that says of a window of time.

Knows no protocol. Times are seconds of `perf_counter`.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """What arrived in a window. `gaps` are the times between two parts of one stream, sorted."""

    num_tokens: int
    num_parts: int
    gaps: list[float]

    def gap(self, share: float) -> float:
        """The gap that this share of all gaps does not exceed."""
        return self.gaps[min(len(self.gaps) - 1, int(share * len(self.gaps)))]


class Arrivals:
    """Takes notes of `num_streams` streams. `failed` has the reason why one ended early."""

    def __init__(self, num_streams: int) -> None:
        self._times: list[list[float]] = [[] for _ in range(num_streams)]
        self._counts: list[list[int]] = [[] for _ in range(num_streams)]
        self.all_started = asyncio.Event()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._num_silent = num_streams

    def note(self, stream: int, num_tokens: int) -> None:
        times = self._times[stream]
        if not times:
            self._num_silent -= 1
            if not self._num_silent:
                self.all_started.set()
        times.append(time.perf_counter())
        self._counts[stream].append(num_tokens)

    def fail(self, reason: str) -> None:
        if not self.failed.done():
            self.failed.set_exception(RuntimeError(reason))

    def between(self, begin: float, end: float) -> Window:
        num_tokens, num_parts, gaps = 0, 0, []
        for times, counts in zip(self._times, self._counts, strict=True):
            inside = [i for i, at in enumerate(times) if begin <= at < end]
            num_parts += len(inside)
            num_tokens += sum(counts[i] for i in inside)
            gaps += [times[i] - times[i - 1] for i in inside if i]
        return Window(num_tokens, num_parts, sorted(gaps))
