"""Calls and tokens by the name of their API key. Knows neither keys nor budgets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, Metric

_DESCRIPTIONS = {
    "key_calls": "Calls that ended, by the name of their API key.",
    "key_prompt_tokens": "Prompt tokens of calls that ended, by the name of their API key.",
    "key_generated_tokens": "Generated tokens of calls that ended, by the name of their API key.",
}


class KeyCounts:
    """Counts since the start. The series of no key is there from the start and stays 0."""

    def __init__(self) -> None:
        self._counts = {name: Counter({"": 0}) for name in _DESCRIPTIONS}

    def add(self, key: str, num_prompt_tokens: int, num_generated_tokens: int) -> None:
        """A call of that key has ended."""
        amounts = (1, num_prompt_tokens, num_generated_tokens)
        for counts, amount in zip(self._counts.values(), amounts, strict=True):
            counts[key] += amount

    def collect(self) -> Iterator[Metric]:
        for name, description in _DESCRIPTIONS.items():
            family = CounterMetricFamily(f"antipode_{name}", description, labels=["key"])
            for key, count in tuple(self._counts[name].items()):
                family.add_metric([key], count)
            yield family
