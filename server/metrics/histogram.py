"""The plain numbers behind a metric: counts of values by size, and how busy something was.

One thread writes each object; others may read it. Knows neither metric names nor Prometheus.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable

# Upper bounds: of steps and of gaps between tokens; of whole requests; of parts of a whole.
SHORT_SECONDS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.015,
    0.02,
    0.03,
    0.05,
    0.075,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    10,
)
LONG_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 640)
RATIOS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9)

_BUSY_WINDOW_SECONDS = 1.0


class Histogram:
    """Counts values up to each bound. One thread observes; others may read."""

    def __init__(self, bounds: Iterable[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def cumulative(self) -> tuple[list[tuple[str, float]], float]:
        """(upper bound, values up to it) for every bound and +Inf; then the sum of all values."""
        buckets, total = [], 0
        for bound, count in zip((*self._bounds, math.inf), tuple(self._counts), strict=True):
            total += count
            buckets.append(("+Inf" if bound == math.inf else str(float(bound)), float(total)))
        return buckets, self._sum


class BusyRatio:
    """Turns a growing total of busy seconds into the busy part of the last second, 0 to 1."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque()

    def update(self, now: float, busy_seconds: float) -> float:
        """Add a sample. Returns the ratio, 0 to 1, rounded to two decimals."""
        self._samples.append((now, busy_seconds))
        while len(self._samples) > 2 and self._samples[1][0] <= now - _BUSY_WINDOW_SECONDS:
            self._samples.popleft()
        then, before = self._samples[0]
        if now <= then:
            return 0.0
        # For a moment, a step that was just read may count twice, and then no more.
        ratio = (busy_seconds - before) / (now - then)
        return round(min(1.0, max(0.0, ratio)), 2)
