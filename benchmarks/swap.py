"""Swaps versions under load, and checks that every answer comes from only one version.

32 streams over HTTP and gRPC keep a real server busy while admin calls swap it from models/tiny/1
to /2 and back, with both policies. Every answer names a version, and must have exactly the tokens
that this version gives on an idle server. Run as `make swap`.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import httpx

from server.pb.antipode.v1 import generation_pb2 as pb
from server.pb.antipode.v1.generation_pb2_grpc import GenerationStub
from tests.e2e.servers import REAL, RunningServer

MODEL = Path("models/tiny")
TOKEN = "swap"
NUM_STREAMS = 32
NUM_PROMPTS = 8
MAX_TOKENS = 24
FLAGS = (
    "--dtype=float32",
    "--max-num-seqs=8",
    "--max-num-batched-tokens=32",
    "--max-model-len=256",
    "--num-blocks=256",
    "--max-queue-len=64",
    "--watch-window-seconds=0.5",
)


@dataclass(frozen=True)
class Answer:
    """One answer; `version` is the version that the response named."""

    prompt: int
    version: str
    token_ids: tuple[int, ...]


@dataclass
class Seen:
    """What the streams received: answers by version, faults, and the seconds between tokens."""

    answers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    mixed: list[Answer] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)


class Client:
    """Both transports of one server, and its admin port."""

    def __init__(
        self, server: RunningServer, http: httpx.AsyncClient, stub: GenerationStub
    ) -> None:
        self.server, self._http, self._stub = server, http, stub

    async def admin(self, method: str, route: str, **body: str) -> dict[str, object]:
        """An admin call that must succeed."""
        response = await self._http.request(
            method,
            "http://" + self.server.start_line["admin"] + route,
            headers={"authorization": f"Bearer {TOKEN}"},
            json=body or None,
        )
        if response.status_code != 200:
            raise AssertionError(response.text)
        found: dict[str, object] = response.json()
        return found

    async def over_http(self, prompt: int, model: str, seen: Seen | None = None) -> Answer:
        request = {
            "model": model,
            "prompt": _text(prompt),
            "max_tokens": MAX_TOKENS,
            "stream": True,
            "ignore_eos": True,
            "return_token_ids": True,
            "temperature": _temperature(prompt),
            "seed": prompt,
        }
        token_ids: list[int] = []
        version, last = "", time.monotonic()
        async with self._http.stream("POST", "/v1/completions", json=request) as response:
            if response.status_code != 200:
                raise AssertionError(f"{response.status_code}: {await response.aread()!r}")
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    raise AssertionError(event["error"]["message"])
                version = event["model_version"]
                token_ids += event["choices"][0].get("token_ids") or []
                last = _note_gap(seen, last, len(token_ids))
        return Answer(prompt, version, tuple(token_ids))

    async def over_grpc(self, prompt: int, model: str, seen: Seen | None = None) -> Answer:
        sampling = pb.Sampling(
            max_tokens=MAX_TOKENS, ignore_eos=True, temperature=_temperature(prompt), seed=prompt
        )
        request = pb.GenerateRequest(
            text=_text(prompt), model=model, sampling=sampling, return_token_ids=True
        )
        token_ids: list[int] = []
        version, last = "", time.monotonic()
        async for response in self._stub.Generate(request):
            version = response.start.model_version or version
            token_ids += response.token_ids
            last = _note_gap(seen, last, len(token_ids))
        return Answer(prompt, version, tuple(token_ids))

    async def references(self, version: str) -> dict[int, Answer]:
        """A version's tokens on an idle server, which must be equal over both transports."""
        found = {}
        for prompt in range(NUM_PROMPTS):
            found[prompt] = await self.over_http(prompt, f"tiny@{version}")
            assert found[prompt] == await self.over_grpc(prompt, f"tiny@{version}")
        return found

    async def stream(
        self, number: int, references: dict[str, dict[int, Answer]], seen: Seen
    ) -> None:
        """Send requests until stopped; compare every answer with its version's expected tokens."""
        call = self.over_http if number % 2 else self.over_grpc
        for turn in itertools.count(number):
            try:
                answer = await call(turn % NUM_PROMPTS, "tiny", seen)
            except (AssertionError, httpx.HTTPError, grpc.aio.AioRpcError) as error:
                seen.failures.append(repr(error)[:500])
                await asyncio.sleep(0.1)
                continue
            seen.answers[answer.version] += 1
            if answer != references[answer.version][answer.prompt]:
                seen.mixed.append(answer)


def _note_gap(seen: Seen | None, last: float, num_tokens: int) -> float:
    now = time.monotonic()
    if seen is not None and num_tokens > 1:
        seen.gaps.append(now - last)
    return now


def _text(prompt: int) -> str:
    return f"def function_{prompt}(argument):\n    return {prompt} + " * 2


def _temperature(prompt: int) -> float:
    return 0.8 if prompt % 2 else 0.0


@asynccontextmanager
async def connected(server: RunningServer) -> AsyncIterator[Client]:
    limits = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(
            base_url=server.http, timeout=120, limits=limits, trust_env=False
        ) as http,
        grpc.aio.insecure_channel(server.grpc) as channel,
    ):
        yield Client(server, http, GenerationStub(channel))


@asynccontextmanager
async def loaded(
    client: Client, references: dict[str, dict[int, Answer]], num_streams: int
) -> AsyncIterator[Seen]:
    """Run streams for the duration of the block."""
    seen = Seen()
    tasks = [
        asyncio.create_task(client.stream(number, references, seen))
        for number in range(num_streams)
    ]
    try:
        yield seen
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def swap(client: Client, seen: Seen, version: str, policy: str) -> float:
    """Load and promote, then wait for answers of the new version; the seconds of the switch."""
    await client.admin("POST", f"/versions/{version}/load", policy=policy)
    start = time.monotonic()
    await client.admin("POST", f"/versions/{version}/promote")
    seconds = time.monotonic() - start
    before = seen.answers[version]
    while seen.answers[version] < before + NUM_STREAMS // 4 and not seen.failures:
        await asyncio.sleep(0.05)
    return seconds


async def run(client: Client, rounds: int, num_streams: int = NUM_STREAMS) -> Seen:
    """Swap 1 → 2 → 1 with each policy, `rounds` times; fails at the first wrong answer."""
    await client.admin("POST", "/versions/2/load", policy="availability")
    references = {version: await client.references(version) for version in ("1", "2")}
    assert references["1"] != references["2"]
    await client.admin("POST", "/versions/2/unload")
    switches: dict[str, list[float]] = {"availability": [], "resource": []}
    async with loaded(client, references, num_streams) as seen:
        for _, policy in itertools.product(range(rounds), switches):
            for version in ("2", "1"):
                if version == "1":
                    await client.admin("POST", "/versions/1/unload")
                switches[policy].append(await swap(client, seen, version, policy))
                assert not seen.failures, seen.failures[0]
                assert not seen.mixed, seen.mixed[0]
            await client.admin("POST", "/versions/2/unload")
    for policy, seconds in switches.items():
        print(
            f"{policy}: {len(seconds)} switches, median {statistics.median(seconds) * 1e3:.0f} ms, "
            f"worst {max(seconds) * 1e3:.0f} ms"
        )
    return seen


def start_server(folder: Path, *flags: str) -> RunningServer:
    token = folder / "token"
    token.write_text(TOKEN)
    return RunningServer(
        folder / "server.log",
        REAL,
        f"--model={MODEL / '1'}",
        f"--admin-token-file={token}",
        "--admin-port=0",
        "--admin-grpc-port=0",
        *FLAGS,
        *flags,
    )


def peak_bytes(pid: int) -> int:
    """The peak memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


async def _main(server: RunningServer, rounds: int) -> None:
    before = peak_bytes(server.engine())
    async with connected(server) as client:
        start = time.monotonic()
        seen = await run(client, rounds)
        print(
            f"{4 * rounds} changes of version in {time.monotonic() - start:.0f} s under "
            f"{NUM_STREAMS} streams: answers by version {dict(seen.answers)}, "
            f"{len(seen.failures)} failed, {len(seen.mixed)} mixed"
        )
        worst, median = max(seen.gaps), statistics.median(seen.gaps)
        print(f"between two tokens of a stream: median {median * 1e3:.0f} ms, worst {worst:.2f} s")
    compiled = server.metric("antipode_compilations_after_ready_total")
    print(f"compilations after ready: {compiled:.0f}")
    grown = peak_bytes(server.engine()) - before
    print(f"peak memory of the engine process: {before >> 20} MiB ready, {grown >> 20} MiB more")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = start_server(Path(folder), "--compile-cache-dir=.cache/xla")
        try:
            server.wait_ready()
            asyncio.run(_main(server, arguments.rounds))
        finally:
            server.terminate()
            server.wait_exit(60)
    return 0


if __name__ == "__main__":
    sys.exit(main())
