"""The metrics as OpenMetrics 1.0, made of their text format, with exemplars of traced requests.

The engine renders one text for everybody; this one is made only when somebody asks for it. Knows
formats, but no metric beyond those that exemplars belong to.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

OPEN_METRICS = "application/openmetrics-text"
CONTENT_TYPE = f"{OPEN_METRICS}; version=1.0.0; charset=utf-8"

# The families of a measurement: ours and vLLM's.
_FAMILIES: Mapping[str, tuple[str, ...]] = {
    "time_to_first_token": (
        "antipode_time_to_first_token_seconds",
        "vllm:time_to_first_token_seconds",
    ),
    "request_duration": (
        "antipode_request_duration_seconds",
        "vllm:e2e_request_latency_seconds",
    ),
}
_KEPT = 64


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One measured request. `moment` is in seconds since the epoch."""

    trace_id: str
    value: float
    moment: float

    def __str__(self) -> str:
        return f'# {{trace_id="{self.trace_id}"}} {self.value!r} {self.moment:.3f}'


class Exemplars:
    """The newest traced requests by measurement. One per API process."""

    def __init__(self) -> None:
        self._newest = {name: deque[Exemplar](maxlen=_KEPT) for name in _FAMILIES}

    def observe(self, measurement: str, trace_id: str, seconds: float) -> None:
        """Keep a request of a trace; of requests without one nothing is kept."""
        if trace_id:
            self._newest[measurement].append(Exemplar(trace_id, seconds, time.time()))

    def by_family(self) -> dict[str, list[Exemplar]]:
        """The kept requests by the name of a family, the newest first."""
        return {
            family: list(reversed(kept))
            for name, kept in self._newest.items()
            for family in _FAMILIES[name]
        }


def open_metrics(text: bytes, exemplars: Exemplars) -> bytes:
    """The same families as OpenMetrics."""
    kept = exemplars.by_family()
    lines = _lines(text.decode().splitlines(), kept)
    return "\n".join((*lines, "# EOF\n")).encode()


def _lines(lines: list[str], kept: Mapping[str, list[Exemplar]]) -> Iterator[str]:
    counters = {
        line.split(" ")[2]
        for line in lines
        if line.startswith("# TYPE") and line.endswith(" counter")
    }
    # The bucket before, of the same series: its bound and its count.
    bound = count = 0.0
    for line in lines:
        if line.startswith("# "):
            bound = count = 0.0
            yield _comment(line, counters)
            continue
        name, _, rest = line.partition("{")
        if not name.endswith("_bucket"):
            yield line
            continue
        label = rest.partition('le="')[2].partition('"')[0]
        upper, total = float(label), float(line.rpartition(" ")[2])
        if total < count or upper <= bound:
            # The buckets of another series of the family.
            bound = count = 0.0
        exemplar = _in_bucket(kept.get(name.removesuffix("_bucket"), ()), bound, upper)
        yield line if exemplar is None or total <= count else f"{line} {exemplar}"
        bound, count = upper, total


def _comment(line: str, counters: set[str]) -> str:
    """OpenMetrics names a family of counters without its suffix, and escapes quotes."""
    mark, keyword, name, *rest = line.split(" ", 3)
    short = name.removesuffix("_total") if name in counters else name
    text = rest[0] if rest else ""
    if keyword == "HELP":
        text = text.replace('"', '\\"')
    return " ".join((mark, keyword, short, text))


def _in_bucket(kept: list[Exemplar] | tuple[()], lower: float, upper: float) -> Exemplar | None:
    """The newest request of a bucket; the engine counted one there if the bucket is not empty."""
    return next((each for each in kept if lower < each.value <= upper), None)
