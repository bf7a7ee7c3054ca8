"""Turns a record into numbers, and numbers into broken promises.

Pure functions over the record. The report's latencies and times are in milliseconds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any

from k8s.lab.chart_numbers import Numbers
from k8s.lab.load import Answer, LoadShape, Record
from k8s.lab.losses import StreamEnd
from k8s.lab.scenarios import Scenario

# Slow answers that end further apart belong to two waves.
WAVE_SECONDS = 4.0
_IN_FLIGHT = "in flight: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    p50_ms: float
    p99_ms: float
    count: int


@dataclass(slots=True, kw_only=True)
class Result:
    """One scenario's outcome. Breaking the region took `breaking_ms`. `first_since_began_ms` counts
    from the beginning of the breaking. `first_answer_ms`, which the promise is about, counts from
    its end, and is 0 if the answer came earlier. `slow_waves` is how often requests found a
    silence. `timeline` has one entry per second from the first request. `cores_before` is the
    number of busy cores before the breaking, by group; `others` is the rest of the machine.
    """

    name: str
    description: str
    rate: float
    num_streams: int
    before: Percentiles
    during: Percentiles
    after: Percentiles
    requests: int = 0
    failed: int = 0
    streams: int = 0
    broken_streams: int = 0
    resumed_streams: int = 0
    retried_streams: int = 0
    tokens_lost: int = 0
    tokens_duplicated: int = 0
    breaking_ms: float | None = None
    first_answer_ms: float | None = None
    first_since_began_ms: float | None = None
    promised_ms: float | None = None
    slow_waves: int = 0
    cores_before: dict[str, float] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    timeline: list[dict[str, Any]] = field(default_factory=list)
    event_second: float = 0.0
    broken_promises: list[str] = field(default_factory=list)

    @classmethod
    def unfinished(cls, scenario: Scenario[Any], shape: LoadShape, error: Exception) -> Result:
        """The outcome of a scenario that raised an exception: only its reason is known."""
        nothing = Percentiles(p50_ms=0.0, p99_ms=0.0, count=0)
        words = f"it did not finish: {type(error).__name__}: {error}"
        return cls(
            name=scenario.name,
            description=scenario.description,
            rate=shape.rate,
            num_streams=shape.num_streams,
            before=nothing,
            during=nothing,
            after=nothing,
            broken_promises=[words],
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(
    scenario: Scenario[Any],
    record: Record,
    shape: LoadShape,
    numbers: Numbers,
    *,
    primary: str,
    began: float,
    event: float,
    settled: float,
) -> Result:
    """In monotonic seconds: breaking starts at `began` and is complete at `event`; the time after
    the failure starts at `settled`.
    """
    answers, streams = record.answers, record.streams
    origin = min(answer.start for answer in answers)
    failures = [answer for answer in answers if answer.error]
    before = percentiles(a for a in answers if a.end < began)
    first = _first_answer(scenario, answers, primary, began)
    within = scenario.within(numbers) if scenario.within else None
    result = Result(
        name=scenario.name,
        description=scenario.description,
        rate=shape.rate,
        num_streams=shape.num_streams,
        requests=len(answers),
        failed=len(failures),
        streams=len(streams),
        broken_streams=sum(bool(s.error) for s in streams),
        resumed_streams=sum(s.num_resumed > 0 for s in streams),
        retried_streams=sum(s.num_retries > 0 for s in streams),
        tokens_lost=sum(s.num_lost for s in streams),
        tokens_duplicated=sum(s.num_duplicated for s in streams),
        first_answer_ms=_milliseconds(first and max(0.0, first - event)),
        first_since_began_ms=_milliseconds(first and first - began),
        promised_ms=None if within is None else within * 1000,
        slow_waves=slow_waves(answers, began, numbers.quiet_timeout),
        before=before,
        during=percentiles(a for a in answers if a.end >= began and a.start < settled),
        after=percentiles(a for a in answers if a.start >= settled),
        errors=dict(_count_errors(_told_apart(answers, began, event), streams)),
        timeline=_timeline(record, origin),
        event_second=began - origin,
        breaking_ms=_milliseconds(event - began),
    )
    result.broken_promises = list(_broken_promises(scenario, result))
    return result


def percentiles(answers: Iterable[Answer]) -> Percentiles:
    """The latencies of successful requests; zeros if there are none."""
    latencies = sorted((a.end - a.start) * 1000 for a in answers if not a.error)
    if not latencies:
        return Percentiles(p50_ms=0.0, p99_ms=0.0, count=0)
    return Percentiles(
        p50_ms=round(latencies[len(latencies) // 2], 1),
        p99_ms=round(latencies[math.ceil(len(latencies) * 0.99) - 1], 1),
        count=len(latencies),
    )


def slow_waves(answers: Iterable[Answer], began: float, limit: float) -> int:
    """The number of waves of answers that took `limit` seconds or more and ended after `began`."""
    slow = sorted(a.end for a in answers if a.end > began and a.end - a.start >= limit)
    return sum(end - before > WAVE_SECONDS for before, end in pairwise([-math.inf, *slow]))


def _first_answer(
    scenario: Scenario[Any], answers: list[Answer], primary: str, began: float
) -> float | None:
    """The time of the first answer that counts."""
    ends = [
        answer.end
        for answer in answers
        if answer.end > began
        and not answer.error
        and (scenario.first_answer == "any region" or answer.region not in (None, primary))
    ]
    return min(ends, default=None)


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


def _broken_promises(scenario: Scenario[Any], result: Result) -> Iterable[str]:
    refusals = ("OverloadedError", "HTTP 429")
    failed = sum(
        count
        for error, count in result.errors.items()
        if not (scenario.may_refuse and error.startswith(refusals))
        and not (scenario.loses_in_flight and error.startswith(_IN_FLIGHT))
    )
    if failed:
        yield f"{failed} requests or streams failed"
    if result.tokens_lost:
        yield f"{result.tokens_lost} tokens of streams were lost"
    if result.tokens_duplicated:
        yield f"{result.tokens_duplicated} tokens of streams came twice or were others"
    most = scenario.most_slow_waves
    if most is not None and result.slow_waves > most:
        yield f"slow answers came in {result.slow_waves} waves, promised is {most}"
    if result.promised_ms is not None:
        if result.first_answer_ms is None:
            yield f"nobody of the {scenario.first_answer} answered"
        elif result.first_answer_ms > result.promised_ms:
            yield (
                f"the first answer took {result.first_answer_ms:.0f} ms, "
                f"promised are {result.promised_ms:.0f} ms"
            )


def _told_apart(answers: list[Answer], began: float, event: float) -> list[Answer]:
    """Those that failed in flight, when it happened, say so."""
    return [
        replace(answer, error=_IN_FLIGHT + answer.error)
        if answer.error and answer.start < event and answer.end > began
        else answer
        for answer in answers
    ]


def _count_errors(answers: list[Answer], streams: list[StreamEnd]) -> Counter[str]:
    errors = [*(answer.error for answer in answers), *(stream.error for stream in streams)]
    return Counter(error for error in errors if error)


def _timeline(record: Record, origin: float) -> list[dict[str, Any]]:
    last = max(answer.end for answer in record.answers) - origin
    return [_second(record, origin + second) for second in range(math.ceil(last))]


def _second(record: Record, start: float) -> dict[str, Any]:
    """The requests that ended in this second."""
    answers = [a for a in record.answers if start <= a.end < start + 1]
    streams = [s for s in record.streams if start <= s.end < start + 1]
    latency = percentiles(answers)
    return {
        "by_region": dict(Counter(a.region for a in answers if a.region and not a.error)),
        "failed": _count_errors(answers, streams).total(),
        "streams": len(streams),
        "resumed": sum(s.num_resumed for s in streams),
        "p50_ms": latency.p50_ms,
        "p99_ms": latency.p99_ms,
    }
