"""What a load measured, in the field's terms: arithmetic over streams, and ratios of two servers.

Knows neither how requests were sent nor which servers answered.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.load.stream import Stream

_PERCENTS = (50, 90, 99)


@dataclass(frozen=True, slots=True)
class Bound:
    """A request is good if its first token came within `ttft` and the others at `tpot` seconds."""

    ttft: float
    tpot: float

    def holds(self, one: Stream) -> bool:
        return one.ttft <= self.ttft and (one.tpot is None or one.tpot <= self.tpot)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One load of one server. Seconds, by percent of requests; of gaps, by percent of gaps.

    `goodput` is good requests per second. `cpu_seconds` and `memory_bytes` are the server's, and
    None where its processes are not known.
    """

    requests: int
    seconds: float
    tokens: int
    tokens_per_part: float
    tokens_per_second: float
    goodput: float
    ttft: dict[int, float]
    tpot: dict[int, float]
    itl: dict[int, float]
    cpu_seconds: float | None
    memory_bytes: int | None


def summarize(
    streams: Sequence[Stream], bound: Bound, cpu_seconds: float | None, memory_bytes: int | None
) -> Summary:
    """The summary of streams that ran in one load."""
    tokens = sum(one.num_tokens for one in streams)
    first = min(one.sent for one in streams)
    seconds = max(one.part_times[-1] for one in streams) - first
    return Summary(
        requests=len(streams),
        seconds=seconds,
        tokens=tokens,
        tokens_per_part=tokens / sum(len(one.part_times) for one in streams),
        tokens_per_second=tokens / seconds,
        goodput=sum(map(bound.holds, streams)) / seconds,
        ttft=percentiles([one.ttft for one in streams]),
        tpot=percentiles([one.tpot for one in streams if one.tpot is not None]),
        itl=percentiles([gap for one in streams for gap in one.gaps]),
        cpu_seconds=cpu_seconds,
        memory_bytes=memory_bytes,
    )


def percentiles(values: Sequence[float]) -> dict[int, float]:
    """The smallest value that so many percent of the values do not exceed; empty for no values."""
    ordered = sorted(values)
    return {
        percent: ordered[max(0, -(-percent * len(ordered) // 100) - 1)]
        for percent in _PERCENTS
        if ordered
    }


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Median, least and greatest of the rounds' ratios: the rounds of both took turns."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)
