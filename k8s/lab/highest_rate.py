"""Finds the highest rate that this machine answers in time, and its core use at each rate.

Applies one rate after another and breaks nothing meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from k8s.lab.cores import Clocks
from k8s.lab.load import LoadShape, Record
from k8s.lab.report import Percentiles, percentiles
from k8s.lab.run import Lab

STEP_SECONDS, PATIENCE_SECONDS = 12.0, 5.0
FIRST_RATE, RATE_STEP = 20, 20
LIMIT_MS = 1000.0
# Rates to try after the search, whatever its result.
LAST_RATE, LAST_NUM_STREAMS = 200.0, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class RateStep:
    """The result of one rate. `cores` is the average number of busy cores by group."""

    rate: float
    num_streams: int
    answers: Percentiles
    failed: int
    unanswered: int
    stream_tokens_per_second: float
    cores: Mapping[str, float]

    @property
    def is_in_time(self) -> bool:
        return self.answers.p99_ms < LIMIT_MS and not self.failed and not self.unanswered

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "is_in_time": self.is_in_time}

    def __str__(self) -> str:
        cores = ", ".join(f"{name} {busy:.2f}" for name, busy in self.cores.items())
        return (
            f"{self.rate:4.0f} requests/s, {self.num_streams} streams: "
            f"p50 {self.answers.p50_ms:.0f} ms, p99 {self.answers.p99_ms:.0f} ms, "
            f"failed {self.failed}, unanswered {self.unanswered}, "
            f"{self.stream_tokens_per_second:.0f} stream tokens/s; cores busy: {cores}"
        )


async def find_rate(lab: Lab, shape: LoadShape) -> list[RateStep]:
    """Raise the rate until answers are late, then try the last rate; prints each result."""
    steps: list[RateStep] = []
    rate = float(FIRST_RATE)
    while not steps or steps[-1].is_in_time:
        steps.append(await _step(lab, replace(shape, rate=rate)))
        print(steps[-1], flush=True)
        rate += RATE_STEP
    steps.append(await _step(lab, replace(shape, rate=LAST_RATE, num_streams=LAST_NUM_STREAMS)))
    print(steps[-1], flush=True)
    return steps


async def _step(lab: Lab, shape: LoadShape) -> RateStep:
    async with lab.steady_load(shape) as load:
        before = Clocks.read(lab.pids())
        await asyncio.sleep(STEP_SECONDS)
        cores = Clocks.read(lab.pids()).cores_since(before)
        num_stream_tokens = load.num_stream_tokens
        num_unanswered = await load.drain(PATIENCE_SECONDS)
        record = load.record
    return RateStep(
        rate=shape.rate,
        num_streams=shape.num_streams,
        answers=percentiles(record.answers),
        failed=_num_failed(record),
        unanswered=num_unanswered,
        stream_tokens_per_second=round(num_stream_tokens / STEP_SECONDS, 1),
        cores=cores,
    )


def _num_failed(record: Record) -> int:
    errors = [a.error for a in record.answers] + [s.error for s in record.streams]
    return sum(map(bool, errors))
