"""How a picker shares requests among a region's pods, measured as shares that time does not change.

Knows a picker only as an address that requests go to, and pods by the header that Envoy adds.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from k8s.lab.proxy import REGION_HEADER

# The measures are of two pods.
SHARED_BY = 2
NUM_SINGLE, BURST, NUM_BURSTS = 20, 20, 3
NUM_PREFIXES, NUM_PER_PREFIX, PREFIX_WORDS = 6, 6, 300
BUSY_STREAMS, BUSY_TOKENS = 40, 400
# What a share must be at least: of single requests on the idle pod, of a prefix's requests on one
# pod after the first, and of a burst's requests on the pod that got fewer.
LEAST_IDLE, LEAST_PREFIX, LEAST_BURST = 0.9, 0.8, 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Shares from 0 to 1; `burst` is the mean over the bursts."""

    idle: float
    prefix: float
    burst: float

    def faults(self) -> list[str]:
        wanted = (
            ("single requests on the idle pod", self.idle, LEAST_IDLE),
            ("a prefix's requests on one pod", self.prefix, LEAST_PREFIX),
            ("a burst's requests on the pod that got fewer", self.burst, LEAST_BURST),
        )
        return [
            f"{what}: {share:.2f}, at least {least} is promised"
            for what, share, least in wanted
            if share < least
        ]


async def measure(pool: str, pods: Sequence[str], model: str) -> Shares:
    """`pool` is the address behind the picker, `pods` are those of the two servers."""
    client = httpx.AsyncClient(trust_env=False, timeout=60)
    async with client:
        asking = _Asking(client, pool, model)
        burst = [await asking.at_once([f"b{i}" for i in range(BURST)]) for _ in range(NUM_BURSTS)]
        prefixes = [await asking.one_by_one(_of_prefix(i)) for i in range(NUM_PREFIXES)]
        async with _busy(client, pods[0], model):
            singles = await asking.one_by_one([f"s{i}" for i in range(NUM_SINGLE)])
    return Shares(
        idle=share(singles, pods[1]),
        prefix=sum(largest(found[1:]) for found in prefixes) / len(prefixes),
        burst=sum(1 - largest(found) for found in burst) / len(burst),
    )


def share(found: Sequence[str], pod: str) -> float:
    return Counter(found)[pod] / len(found)


def largest(found: Sequence[str]) -> float:
    """The share of the pod that got most."""
    [(_, count)] = Counter(found).most_common(1)
    return count / len(found)


def _of_prefix(index: int) -> list[str]:
    """Prompts with a long beginning of their own in common."""
    words = " ".join(f"w{index}-{place}" for place in range(PREFIX_WORDS))
    return [f"{words} {turn}" for turn in range(NUM_PER_PREFIX)]


class _Asking:
    """Asks for a few tokens, and gives the address of the pod that answered."""

    def __init__(self, client: httpx.AsyncClient, pool: str, model: str) -> None:
        self._client, self._pool, self._model = client, pool, model

    async def at_once(self, prompts: Sequence[str]) -> list[str]:
        return await asyncio.gather(*(self._ask(prompt) for prompt in prompts))

    async def one_by_one(self, prompts: Sequence[str]) -> list[str]:
        return [await self._ask(prompt) for prompt in prompts]

    async def _ask(self, prompt: str) -> str:
        body = {"model": self._model, "prompt": prompt, "max_tokens": 8}
        answer = await self._client.post(f"{self._pool}/v1/completions", json=body)
        answer.raise_for_status()
        return answer.headers[REGION_HEADER].rsplit(":", 1)[0]


@asynccontextmanager
async def _busy(client: httpx.AsyncClient, pod: str, model: str) -> AsyncIterator[None]:
    """Keep one pod busy with streams that do not come by the picker."""
    body = {"model": model, "prompt": "a", "max_tokens": BUSY_TOKENS, "stream": True}
    url = f"http://{pod}:8000/v1/completions"
    # Counts lines: this many of them mean that the pod is at work.
    started = asyncio.Semaphore(0)
    streams = [asyncio.create_task(_read(client, url, body, started)) for _ in range(BUSY_STREAMS)]
    try:
        for _ in range(BUSY_STREAMS):
            await started.acquire()
        yield
    finally:
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)


async def _read(
    client: httpx.AsyncClient, url: str, body: object, started: asyncio.Semaphore
) -> None:
    """Stream again and again, until it is cancelled."""
    while True:
        async with client.stream("POST", url, json=body) as answer:
            async for _ in answer.aiter_lines():
                started.release()
