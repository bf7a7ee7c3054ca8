"""How many drafts were made and came true, under vLLM's names.

Acceptance is accepted tokens per draft token; a step yields 1 + accepted / drafts tokens per row
that has drafts. Knows neither rows nor steps.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, Metric


class DraftCounts:
    """Counts since the start. `accepted_at[i]` is how often the draft at place i came true."""

    def __init__(self, most: int) -> None:
        self.num_drafts = 0
        self.num_draft_tokens = 0
        self.accepted_at = [0] * max(1, most)

    def add(self, num_drafted: int, num_accepted: int) -> None:
        """A row had drafts, and the first `num_accepted` came true."""
        self.num_drafts += 1
        self.num_draft_tokens += num_drafted
        for position in range(num_accepted):
            self.accepted_at[position] += 1


def draft_metrics(counts: DraftCounts, model: str) -> Iterator[Metric]:
    """The families, also without speculation; the counts are then 0."""
    for name, description, value in (
        ("drafts", "Rows of steps that had drafts. As in vLLM.", counts.num_drafts),
        ("draft_tokens", "Tokens that were drafted. As in vLLM.", counts.num_draft_tokens),
        ("accepted_tokens", "Drafts that came true. As in vLLM.", sum(counts.accepted_at)),
    ):
        family = CounterMetricFamily(
            f"vllm:spec_decode_num_{name}", description, labels=["model_name"]
        )
        family.add_metric([model], value)
        yield family
    positions = CounterMetricFamily(
        "vllm:spec_decode_num_accepted_tokens_per_pos",
        "Drafts that came true, by their place in a row's drafts. As in vLLM.",
        labels=["model_name", "position"],
    )
    for position, count in enumerate(counts.accepted_at):
        positions.add_metric([model, str(position)], count)
    yield positions
