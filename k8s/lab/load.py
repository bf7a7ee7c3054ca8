"""Generates load, unary and streaming over HTTP and gRPC, and records each answer.

Unary requests are sent at a fixed rate, even if earlier ones are unanswered. Over HTTP only the
proxy retries a unary request. gRPC requests and all streams use the Antipode client, which retries
and resumes. Every answer is compared, token by token, with the answer of an undisturbed server.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from antipode import AntipodeError, AsyncClient, AsyncStream, RetryPolicy

from k8s.lab.losses import StreamEnd, differences, is_right
from k8s.lab.proxy import REGION_HEADER, Address

NUM_PROMPTS = 8
UNARY_TOKENS = 4
# A request fails if the server does not answer within this many seconds.
UNARY_SECONDS = 10.0
FINISH_SECONDS = 60.0
PROMPTS = tuple(f"def solution_{number}(values):\n" for number in range(NUM_PROMPTS))


# Each prompt's tokens, by model version.
type Expected = Mapping[str, Sequence[list[int]]]


@dataclass(frozen=True, slots=True)
class Answer:
    """One unary request: times in monotonic seconds, the region (HTTP only), and the failure."""

    start: float
    end: float
    protocol: str
    region: str | None
    error: str = ""


@dataclass(slots=True)
class Record:
    answers: list[Answer] = field(default_factory=list)
    streams: list[StreamEnd] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadShape:
    """The amount of load: unary requests per second, readers of streams, tokens per stream."""

    rate: float
    num_streams: int
    stream_tokens: int
    # Seconds between the streams of a reader. Nothing throttles the engines, so streams without a
    # pause would take every core.
    stream_pause: float
    resume: bool = True


async def undisturbed(address: Address, num_tokens: int) -> list[list[int]]:
    """Each prompt's tokens, from one idle server."""
    async with AsyncClient(f"grpc://{address.host}:{address.grpc}") as client:
        streams = [client.generate(p, **_options(i, num_tokens)) for i, p in enumerate(PROMPTS)]
        return [(await stream.collect())[0].token_ids for stream in streams]


def _options(number: int, num_tokens: int) -> Any:
    """The sampling of a request: half of the requests are greedy, half sampled."""
    temperature = 0.0 if number % 2 else 1.0
    seed = 1000 + number
    return {
        "max_tokens": num_tokens,
        "temperature": temperature,
        "seed": seed,
        "ignore_eos": True,
    }


class LoadGenerator:
    """Sends load from `start` to `finish` and fills `record`. The caller closes it.

    Requests name the `model`, because pickers refuse those that do not.
    """

    def __init__(
        self,
        address: Address,
        shape: LoadShape,
        model: str,
        expected: Expected,
        region_of: Callable[[str], str | None],
    ) -> None:
        self.record = Record()
        self.num_stream_tokens = 0
        self._address = address
        self._shape, self._model = shape, model
        self._expected = expected
        self._region_of = region_of
        self._numbers = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()
        self._workers: list[asyncio.Task[None]] = []
        self._is_stopping = False
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        http = f"http://{address.host}:{address.http}"
        self._http = httpx.AsyncClient(
            base_url=http,
            timeout=UNARY_SECONDS,
            limits=limits,
            trust_env=False,
        )
        policy = RetryPolicy() if shape.resume else RetryPolicy(max_attempts=1)
        self._clients = {
            "http": AsyncClient(http, retry=policy, trust_env=False),
            "grpc": AsyncClient(f"grpc://{address.host}:{address.grpc}", retry=policy),
        }

    def start(self) -> None:
        self._workers = [asyncio.create_task(self._send_unary())]
        self._workers += [
            asyncio.create_task(self._stream_on(number))
            for number in range(self._shape.num_streams)
        ]

    async def finish(self) -> None:
        """Start no new requests and wait for running ones, which must succeed too."""
        self._is_stopping = True
        async with asyncio.timeout(FINISH_SECONDS):
            await asyncio.gather(*self._workers)
            await asyncio.gather(*self._tasks)

    async def drain(self, patience: float) -> int:
        """Start no new requests; returns the number of unary requests not answered in time."""
        self._is_stopping = True
        if not self._tasks:
            return 0
        _, late = await asyncio.wait(self._tasks, timeout=patience)
        return len(late)

    async def aclose(self) -> None:
        """Cancel every running request."""
        tasks = [*self._workers, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._http.aclose()
        for client in self._clients.values():
            await client.aclose()

    def burst(self, count: int, num_tokens: int) -> None:
        """Send `count` unary requests at once, each of `num_tokens` tokens."""
        for _ in range(count):
            self._spawn(num_tokens)

    async def _send_unary(self) -> None:
        due = time.monotonic()
        while not self._is_stopping:
            self._spawn(UNARY_TOKENS)
            due += 1 / self._shape.rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    def _spawn(self, num_tokens: int) -> None:
        task = asyncio.create_task(self._unary(next(self._numbers), num_tokens))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _unary(self, number: int, num_tokens: int) -> None:
        protocol, ask = ("http", self._ask_http) if number % 2 else ("grpc", self._ask_grpc)
        start, region, error = time.monotonic(), None, ""
        try:
            upstream, version, token_ids = await ask(number % NUM_PROMPTS, num_tokens)
            region = self._region_of(upstream)
            expected = self._expected_of(version, number % NUM_PROMPTS)[:num_tokens]
            error = "" if is_right(token_ids, expected) else "wrong tokens"
        except (httpx.HTTPError, AntipodeError) as failure:
            error = _words(failure)
        self.record.answers.append(Answer(start, time.monotonic(), protocol, region, error))

    def _expected_of(self, version: str, prompt: int) -> list[int]:
        """Nothing for a version that nobody expects, so that its tokens are all wrong."""
        return self._expected[version][prompt] if version in self._expected else []

    async def _ask_http(self, number: int, num_tokens: int) -> tuple[str, str, list[int]]:
        """Where it was answered, by which version, and the tokens."""
        body = {"model": self._model, "prompt": PROMPTS[number], "return_token_ids": True}
        response = await self._http.post(
            "/v1/completions", json=body | _options(number, num_tokens)
        )
        response.raise_for_status()
        answer = response.json()
        token_ids = answer["choices"][0]["token_ids"]
        return response.headers[REGION_HEADER], answer["model_version"], token_ids

    async def _ask_grpc(self, number: int, num_tokens: int) -> tuple[str, str, list[int]]:
        """Send it with the Antipode client: a proxy cannot retry a gRPC call after its first token.
        The client does not report which region answered.
        """
        stream = self._clients["grpc"].generate(
            PROMPTS[number], timeout=UNARY_SECONDS, **_options(number, num_tokens)
        )
        [choice] = await stream.collect()
        return "", _version_of(stream), choice.token_ids

    async def _stream_on(self, worker: int) -> None:
        """One stream after another, with different prompts. Readers start at different times."""
        await asyncio.sleep(worker * self._shape.stream_pause / self._shape.num_streams)
        for number in itertools.count(worker):
            if self._is_stopping:
                return
            protocol = "http" if number % 2 else "grpc"
            await self._stream(protocol, number // 2 % NUM_PROMPTS)
            await asyncio.sleep(self._shape.stream_pause)

    async def _stream(self, protocol: str, prompt: int) -> None:
        start, token_ids, error = time.monotonic(), list[int](), ""
        stream = self._clients[protocol].generate(
            PROMPTS[prompt], **_options(prompt, self._shape.stream_tokens)
        )
        try:
            async with stream:
                async for delta in stream:
                    token_ids += delta.token_ids
                    self.num_stream_tokens += len(delta.token_ids)
        except AntipodeError as failure:
            error = _words(failure)
            await asyncio.sleep(0.1)
        # A stream that never began is compared with those of any version.
        version = _version_of(stream) or next(iter(self._expected))
        lost, duplicated = differences(token_ids, self._expected_of(version, prompt))
        self.record.streams.append(
            StreamEnd(
                start=start,
                end=time.monotonic(),
                protocol=protocol,
                num_resumed=stream.num_resumed,
                num_retries=stream.num_retries,
                num_lost=lost,
                num_duplicated=duplicated,
                error=error,
            )
        )


def _version_of(stream: AsyncStream) -> str:
    """The model version that answers; "" before the first answer."""
    return stream.start.model_version if stream.start is not None else ""


def _words(failure: Exception) -> str:
    with contextlib.suppress(AttributeError):
        return f"HTTP {failure.response.status_code}"  # type: ignore[attr-defined]
    return f"{type(failure).__name__}: {failure}"[:200]
