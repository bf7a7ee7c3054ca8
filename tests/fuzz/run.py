"""Sends random things at every target of one server, while a well-behaved user watches.

    python -m tests.fuzz --count 100000 --seed 7

Each thing follows from the seed, its target and its number; a failure prints the three, and
`--only TARGET/NUMBER` sends that thing once more. The engine is the fake one: what is tried are the
API process, the links and the client, not the step.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import httpx
from antipode import AsyncClient, RetryPolicy

from tests.e2e.checkpoints import write_serving_checkpoint
from tests.e2e.servers import FAKE, RunningServer, is_running, wait_for
from tests.fuzz import protocols, targets, wire
from tests.fuzz.targets import Target

NUM_AT_ONCE = 8
NAMES = ("http", "grpc", "protocols", "raw", "admin", "admin-grpc", "model-file", "client")
FLAGS = ("--max-num-seqs=64", "--max-num-batched-tokens=256", "--num-blocks=4096")
_BAD_WORDS = ("Traceback", "Task exception was never retrieved", "Unhandled", "unhandled")


@dataclass(slots=True)
class Failures:
    """What was broken, with the place that sends it again."""

    seed: int
    found: list[str] = field(default_factory=list)

    def add(self, place: str, error: Exception) -> None:
        self.found.append(f"seed {self.seed}, {place}: {type(error).__name__}: {error}")


def fuzz(count: int, seed: int, only: str = "") -> list[str]:
    """Send `count` things, shared by the targets; what broke, each with its seed."""
    with tempfile.TemporaryDirectory(prefix="antipode-fuzz-") as folder:
        server = _start(Path(folder))
        try:
            failures = asyncio.run(_fuzz(server.wait_ready(), count, seed, only))
            return [*failures.found, *_faults_of(server)]
        finally:
            children = server.children() if is_running(server.pid) else []
            with contextlib.suppress(ProcessLookupError):
                server.process.kill()
            server.process.wait()
            wait_for(lambda: not any(map(is_running, children)), "the end of the children")


def few_of_each(failures: list[str]) -> list[str]:
    """The first ten failures of each target, and those of no target."""
    seen: Counter[str] = Counter()
    few = []
    for failure in failures:
        target = failure.partition("/")[0]
        seen[target] += 1
        if seen[target] <= 10:
            few.append(failure)
    return few


def _start(folder: Path) -> RunningServer:
    token = folder / "token"
    token.write_text(targets.TOKEN)
    model = write_serving_checkpoint(folder / "toy" / "1")
    admin = (f"--admin-token-file={token}", "--admin-port=0", "--admin-grpc-port=0")
    log = folder / "server.log"
    return RunningServer(log, FAKE, f"--model={model}", *FLAGS, *admin, FAKE_STEP_SECONDS="0.001")


async def _fuzz(server: RunningServer, count: int, seed: int, only: str) -> Failures:
    failures = Failures(seed)
    async with _targets(server) as opened:
        if only:
            name, _, number = only.partition("/")
            await _send(opened[name], name, int(number), failures)
            return failures
        ended = asyncio.Event()
        bystander = asyncio.create_task(_bystander(server, ended, failures))
        share = count // len(opened)
        for name, target in opened.items():
            # The wrong server answers one connection at a time from one source of chance.
            num_workers = 1 if name == "client" else NUM_AT_ONCE
            numbers = iter(range(share))
            workers = [_work(target, name, numbers, failures) for _ in range(num_workers)]
            await asyncio.gather(*workers)
        ended.set()
        await bystander
    return failures


async def _work(target: Target, name: str, numbers: Iterator[int], failures: Failures) -> None:
    for number in numbers:
        await _send(target, name, number, failures)


async def _send(target: Target, name: str, number: int, failures: Failures) -> None:
    place = f"{name}/{number}"
    try:
        await target(random.Random(f"{failures.seed}/{place}"))
    except Exception as error:
        failures.add(place, error)


async def _bystander(server: RunningServer, ended: asyncio.Event, failures: Failures) -> None:
    """Ask for the same tokens again and again; they must come, and never change."""
    body = {"model": "toy", "prompt": "hello", "max_tokens": 8, "seed": 1, "return_token_ids": True}
    expected = None
    async with httpx.AsyncClient(base_url=server.http, trust_env=False, timeout=20) as http:
        while not ended.is_set():
            try:
                answer = (await http.post("/v1/completions", json=body)).json()
                tokens = answer["choices"][0]["token_ids"]
                expected = expected or tokens
                assert tokens == expected, f"{tokens} instead of {expected}"
            except Exception as error:
                failures.add("bystander", error)
                return
            await asyncio.sleep(0.05)


@asynccontextmanager
async def _targets(server: RunningServer) -> AsyncIterator[dict[str, Target]]:
    wrong = targets.WrongServer()
    listener = await asyncio.start_server(wrong.answer, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    retry = RetryPolicy(max_attempts=2, initial_backoff=0.0, max_backoff=0.0)
    limits = httpx.Limits(max_connections=NUM_AT_ONCE)
    admin = "http://" + server.start_line["admin"]
    async with (
        httpx.AsyncClient(base_url=server.http, trust_env=False, limits=limits) as http,
        httpx.AsyncClient(base_url=admin, trust_env=False, limits=limits) as admin_http,
        grpc.aio.insecure_channel(server.grpc) as channel,
        grpc.aio.insecure_channel(server.start_line["admin_grpc"]) as admin_channel,
        AsyncClient(f"http://127.0.0.1:{port}", retry=retry, trust_env=False) as calls,
        listener,
    ):
        yield {
            "http": targets.http(http),
            "grpc": targets.grpc_calls(channel),
            "protocols": protocols.calls(channel),
            "raw": wire.connection(server.http.removeprefix("http://")),
            "admin": targets.admin(admin_http),
            "admin-grpc": protocols.admin_calls(admin_channel, targets.TOKEN),
            "model-file": targets.model_file(server.log_path.parent),
            "client": targets.client(wrong, calls),
        }


def _faults_of(server: RunningServer) -> list[str]:
    """What the server itself shows once everything was sent."""
    if not is_running(server.pid):
        return ["the server ended"]
    faults = []
    if server.get("/readyz").status_code != 200:
        faults.append(f"/readyz: {server.get('/readyz').text}")
    text = server.log_path.read_text(errors="replace")
    faults += [
        f"the log has {word!r}: {_around(text, word)}" for word in _BAD_WORDS if word in text
    ]
    return faults


def _around(text: str, word: str) -> str:
    place = text.index(word)
    return text[max(0, place - 300) : place + 1500]
