"""Measures what small requests and running streams notice of long prompts, on a real server.

    make fairness
    make fairness ARGS="--model demo --long-tokens 500 --small 15 --every 1"

First small requests run without other load, one after another. Then a few streams run; after a
while, many long prompts arrive at once, and small requests arrive at even intervals next to them.
The time of a step next to long prompts is the mean of the server's own histogram.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import time
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path

import httpx

from benchmarks.serving import served
from models.demo import ensure

_TINY = Path("models/tiny/2")

_SMALL_TOKENS = 32
_STREAMS, _STREAM_TOKENS = 4, 1900
_QUIET_TOKENS = 200
# The long requests' bodies must be read first: that takes the API process a part of a second.
_SETTLE_SECONDS = 1.0
# Both models have all of these.
_TOKEN_IDS = range(300, 3000)


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds: to small requests' first tokens, and between tokens of running streams.

    `busy_*` is next to long prompts. `long` is from the arrival of the long prompts to the first
    token of each, `step` the mean of a step next to them.
    """

    small: list[float]
    busy_small: list[float]
    gaps: list[float]
    busy_gaps: list[float]
    long: list[float]
    step: float


class Client:
    """Sends prompts of random tokens, and notes when tokens come."""

    def __init__(self, http: httpx.AsyncClient, model: str) -> None:
        self._http, self._model = http, model
        self._random = random.Random(time.time_ns())

    async def stream(self, num_prompt_tokens: int, max_tokens: int, times: list[float]) -> float:
        """Append the time of every token to `times`; return the seconds to the first one."""
        body = {
            "model": self._model,
            "prompt": self._random.choices(_TOKEN_IDS, k=num_prompt_tokens),
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "return_token_ids": True,
        }
        start = time.perf_counter()
        async with self._http.stream("POST", "/v1/completions", json=body) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    choices = json.loads(line[6:])["choices"]
                    times += [time.perf_counter()] * sum(len(c["token_ids"]) for c in choices)
        return times[0] - start

    async def small(self) -> float:
        return await self.stream(_SMALL_TOKENS, 1, [])

    async def steps(self) -> tuple[float, float]:
        """Seconds and number of all steps so far that held decodes and chunks of prompts."""
        text = (await self._http.get("/metrics")).text
        name = 'antipode_step_duration_seconds_{}{{kind="mixed"}} '
        seconds, count = (
            next(float(line.split()[1]) for line in text.splitlines() if line.startswith(start))
            for start in (name.format("sum"), name.format("count"))
        )
        return seconds, count


async def measure(url: str, model: str, options: argparse.Namespace) -> Measured:
    """Both phases, on a server that serves nobody else."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=1200, limits=limits) as http:
        client = Client(http, model)
        await client.small()
        small = [await client.small() for _ in range(options.small)]
        tokens: list[list[float]] = [[] for _ in range(_STREAMS)]
        streams = [
            asyncio.create_task(client.stream(_SMALL_TOKENS, _STREAM_TOKENS, times))
            for times in tokens
        ]
        while len(tokens[0]) < _QUIET_TOKENS:
            await asyncio.sleep(0.01)
        begin = time.perf_counter()
        seconds, count = await client.steps()
        long = [
            asyncio.create_task(client.stream(options.long_tokens, 1, []))
            for _ in range(options.long)
        ]
        await asyncio.sleep(_SETTLE_SECONDS)
        arrived = await _at_intervals(client, options.small, options.every)
        waited = await asyncio.gather(*long)
        end = begin + max(waited)
        seconds_after, count_after = await client.steps()
        for task in streams:
            task.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
    gaps = [pair for times in tokens for pair in pairwise(times)]
    return Measured(
        small,
        [seconds for start, seconds in arrived if start < end],
        [b - a for a, b in gaps if b < begin],
        [b - a for a, b in gaps if begin < a and b < end],
        waited,
        (seconds_after - seconds) / (count_after - count),
    )


async def _at_intervals(client: Client, count: int, every: float) -> list[tuple[float, float]]:
    """When small requests were sent, answered or not those before them, and their TTFTs."""
    starts, tasks = [], []
    for _ in range(count):
        await asyncio.sleep(every)
        starts.append(time.perf_counter())
        tasks.append(asyncio.create_task(client.small()))
    return list(zip(starts, await asyncio.gather(*tasks), strict=True))


def show(measured: Measured) -> None:
    """Print medians and p99s in milliseconds, and the ratios that matter."""
    step = measured.step
    print("                                     p50 ms   p99 ms")
    _show_row("small TTFT without other load", measured.small)
    _show_row("small TTFT next to long prompts", measured.busy_small)
    _show_row("between tokens, no long prompts", measured.gaps)
    _show_row("between tokens, long prompts", measured.busy_gaps)
    _show_row("long prompts' TTFT", measured.long)
    extra = statistics.median(measured.busy_small) - statistics.median(measured.small)
    worst = _p99(measured.busy_small) - statistics.median(measured.small)
    print(f"step next to long prompts {step * 1e3:.0f} ms")
    print(f"small TTFT grows by {extra / step:.1f} steps (p50), {worst / step:.1f} steps (p99)")


def _show_row(name: str, seconds: list[float]) -> None:
    print(f"{name:34s} {statistics.median(seconds) * 1e3:8.0f} {_p99(seconds) * 1e3:8.0f}")


def _p99(seconds: list[float]) -> float:
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", choices=("tiny", "demo"), default="tiny")
    parser.add_argument("--long", type=int, default=20, help="long prompts that arrive at once")
    parser.add_argument("--long-tokens", type=int, default=1600, help="tokens of each of them")
    parser.add_argument("--small", type=int, default=40, help="small requests of each phase")
    parser.add_argument("--every", type=float, default=0.05, help="seconds between small requests")
    arguments = parser.parse_args()
    checkpoint = ensure() if arguments.model == "demo" else _TINY
    cores = len(os.sched_getaffinity(0))
    print(f"{date.today()}, {platform.machine()}, {cores} cores, {checkpoint.parent.name}")
    with served(checkpoint) as server:
        show(asyncio.run(measure(server.url, checkpoint.parent.name, arguments)))


if __name__ == "__main__":
    main()
