"""Closed and open load: so many streams at all times, or so many requests per second.

A closed loop asks again when an answer ends, so a slow server is asked less. An open loop asks at
random times that do not depend on the server (a Poisson process), as users do. Knows no server.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from itertools import islice

import httpx

from benchmarks.load.stream import Stream, stream
from benchmarks.load.workloads import Body

_TIMEOUT_SECONDS = 600


async def closed(url: str, bodies: Iterator[Body], streams: int, requests: int) -> list[Stream]:
    """`requests` requests, `streams` of them at any time."""
    waiting = islice(bodies, requests)
    found: list[Stream] = []
    async with _client(url) as client:

        async def ask() -> None:
            for body in waiting:
                found.append(await stream(client, body))

        async with asyncio.TaskGroup() as group:
            for _ in range(streams):
                group.create_task(ask())
    return found


async def opened(
    url: str, bodies: Iterator[Body], per_second: float, requests: int, seed: int
) -> list[Stream]:
    """`requests` requests, whose times are drawn with `seed`."""
    draw = random.Random(seed)
    async with _client(url) as client, asyncio.TaskGroup() as group:
        tasks = []
        for body in islice(bodies, requests):
            tasks.append(group.create_task(stream(client, body)))
            await asyncio.sleep(draw.expovariate(per_second))
    return [task.result() for task in tasks]


def _client(url: str) -> httpx.AsyncClient:
    # A connection for each request: some servers close theirs after a stream without saying so.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_SECONDS, limits=limits)
