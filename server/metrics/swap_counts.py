"""How often the served version changed, with which result, and how long that took.

Knows no version by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from server.metrics.histogram import LONG_SECONDS, SHORT_SECONDS, Histogram

SWAP_RESULTS = ("promoted", "failed", "rolled_back", "automatic_rollback")


class SwapCounts:
    """Implements the version manager's SwapObserver; only the manager's thread may count."""

    def __init__(self) -> None:
        self.num_changes = 0
        self._swaps: Counter[str] = Counter(dict.fromkeys(SWAP_RESULTS, 0))
        self._load = Histogram(LONG_SECONDS)
        self._switch = Histogram(SHORT_SECONDS)

    def on_swap(self, result: str) -> None:
        """The served version changed, or a version could not be served: `result` says how."""
        self.num_changes += 1
        self._swaps[result] += 1

    def on_load(self, seconds: float) -> None:
        """A version was read, and proved where it has golden prompts."""
        self.num_changes += 1
        self._load.observe(seconds)

    def on_switch(self, seconds: float) -> None:
        """One version took another's place; with swap_policy resource, requests waited for it."""
        self.num_changes += 1
        self._switch.observe(seconds)

    def collect(self, *, is_followed: bool) -> Iterator[Metric]:
        """`is_followed` tells whether the model configuration file can be followed."""
        yield GaugeMetricFamily(
            "antipode_model_config_followed",
            "0 while the model configuration file cannot be followed.",
            float(is_followed),
        )
        swaps = CounterMetricFamily(
            "antipode_model_swaps", "Changes of the served version, by result.", labels=["result"]
        )
        for result, count in tuple(self._swaps.items()):
            swaps.add_metric([result], count)
        yield swaps
        yield _histogram("load", "Time to read a version and prove it.", self._load)
        yield _histogram("switch", "Time to put a version in another's place.", self._switch)


def _histogram(change: str, description: str, histogram: Histogram) -> Metric:
    family = HistogramMetricFamily(f"antipode_model_version_{change}_duration_seconds", description)
    family.add_metric([], *histogram.cumulative())
    return family
