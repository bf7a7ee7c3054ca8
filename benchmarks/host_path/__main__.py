"""Measures what the host costs per token next to a device whose step always takes as long.

    make host-path
    make host-path ARGS="--only grpc --rounds 1"

The server is real but for its device: processes, step loop, link, tokenizer, HTTP and gRPC. Over
HTTP it has one API process, over gRPC two. Each stream has a connection over HTTP; over gRPC a few
share one. Rounds follow the ramp, in which all streams begin. Printed are the medians of the
rounds: tokens per second, the times between two parts of a stream, and CPU time per token.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import psutil
import uvloop

from benchmarks.host_path import grpc_streams, http_streams
from benchmarks.host_path.arrivals import Arrivals, Window
from tests.e2e.checkpoints import write_serving_checkpoint
from tests.e2e.servers import RunningServer

_SERVER = "benchmarks.host_path.server"
_PROMPT_TOKENS, _MAX_MODEL_LEN, _BLOCK_SIZE = 32, 16_384, 64
_TOKEN_IDS = range(10, 250)
_RAMP_SECONDS, _SETTLE_SECONDS = 60.0, 2.0
_MICROSECONDS = 1e6
# What the command line of a process of each kind holds.
_KINDS = {"api": "server.processes.api", "engine": "host_path.engine", "main": _SERVER}

type Open = Callable[[str, list[list[int]], int, Arrivals], Awaitable[list[asyncio.BaseTransport]]]


@dataclass(frozen=True, slots=True)
class Round:
    """A window of the streams, and the CPU seconds of each kind of process in it."""

    seconds: float
    window: Window
    cpu: dict[str, float]

    def cpu_per_token(self, kind: str) -> float:
        """In microseconds."""
        return self.cpu[kind] / self.window.num_tokens * _MICROSECONDS


def cpu_seconds(pid: int) -> dict[str, float]:
    """User and system time so far: of the server's processes by kind, and of this client."""
    found = dict.fromkeys([*_KINDS, "client"], 0.0)
    server = psutil.Process(pid)
    for process in (server, *server.children(recursive=True)):
        line = " ".join(process.cmdline())
        kind = next((name for name, part in _KINDS.items() if part in line), "main")
        found[kind] += _cpu(process)
    found["client"] = _cpu(psutil.Process())
    return found


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def measure(opener: Open, address: str, pid: int, options: argparse.Namespace) -> list[Round]:
    """Open all streams, wait until all have begun, and take the rounds."""
    arrivals = Arrivals(options.streams)
    prompts = [random.choices(_TOKEN_IDS, k=_PROMPT_TOKENS) for _ in range(options.streams)]
    most = _MAX_MODEL_LEN - _PROMPT_TOKENS
    transports = await opener(address, prompts, most, arrivals)
    started: asyncio.Future[Any] = asyncio.create_task(arrivals.all_started.wait())
    async with asyncio.timeout(_RAMP_SECONDS):
        await asyncio.wait({started, arrivals.failed}, return_when=asyncio.FIRST_COMPLETED)
    await _sleep(_SETTLE_SECONDS, arrivals)
    rounds = [await _round(arrivals, pid, options.seconds) for _ in range(options.rounds)]
    arrivals.failed.cancel()
    for transport in transports:
        transport.close()
    return rounds


async def _round(arrivals: Arrivals, pid: int, seconds: float) -> Round:
    before, begin = cpu_seconds(pid), time.perf_counter()
    await _sleep(seconds, arrivals)
    after, end = cpu_seconds(pid), time.perf_counter()
    used = {kind: after[kind] - before[kind] for kind in after}
    return Round(end - begin, arrivals.between(begin, end), used)


async def _sleep(seconds: float, arrivals: Arrivals) -> None:
    """Sleep, unless a stream fails: then its reason is raised."""
    await asyncio.wait({arrivals.failed}, timeout=seconds)
    if arrivals.failed.done():
        arrivals.failed.result()


def print_rounds(name: str, rounds: list[Round], options: argparse.Namespace) -> None:
    def median(value: Callable[[Round], float]) -> float:
        return statistics.median(map(value, rounds))

    ideal = options.streams / (options.step_ms / 1e3)
    rate = median(lambda each: each.window.num_tokens / each.seconds)
    tokens_per_part = median(lambda each: each.window.num_tokens / each.window.num_parts)
    gaps = [1e3 * median(lambda r, at=at: r.window.gap(at)) for at in (0.5, 0.99, 0.999)]  # type: ignore[misc]
    cpu = {kind: median(lambda r, kind=kind: r.cpu_per_token(kind)) for kind in _KINDS}  # type: ignore[misc]
    client = median(lambda each: each.cpu["client"] / each.seconds)
    print(f"{name}, {options.streams} streams, medians of {len(rounds)} x {options.seconds:g} s:")
    print(f"  {rate:,.0f} of {ideal:,.0f} tokens/s, {rate / ideal:.2%}")
    print(f"  {tokens_per_part:.2f} tokens a part; between parts " + ITL.format(*gaps))
    print(f"  p99 / step: {gaps[1] / options.step_ms:.2f}")
    parts = ", ".join(f"{kind} {each:.1f}" for kind, each in cpu.items())
    print(f"  CPU per token: {sum(cpu.values()):.1f} us ({parts})")
    print(f"  the client used {client:.0%} of a core", flush=True)


ITL = "p50 {:.1f}, p99 {:.1f}, p99.9 {:.1f} ms"


@contextmanager
def serving(num_api: int, options: argparse.Namespace, folder: Path) -> Iterator[RunningServer]:
    checkpoint = folder / "letters" / "1"
    if not checkpoint.exists():
        write_serving_checkpoint(checkpoint, max_position_embeddings=_MAX_MODEL_LEN)
    num_blocks = options.streams * _MAX_MODEL_LEN // _BLOCK_SIZE + 1
    flags = [f"--model={checkpoint}", f"--api-processes={num_api}"]
    flags += [f"--max-num-seqs={options.streams}", f"--max-model-len={_MAX_MODEL_LEN}"]
    flags += [f"--block-size={_BLOCK_SIZE}", f"--num-blocks={num_blocks}"]
    flags += ["--max-num-batched-tokens=2048"]
    step_seconds = str(options.step_ms / 1e3)
    log = folder / f"{num_api}.log"
    server = RunningServer(log, _SERVER, *flags, STEP_SECONDS=step_seconds)
    try:
        yield server.wait_ready(num_api)
    finally:
        server.terminate()
        server.wait_exit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=("http", "grpc"), help="one protocol instead of both")
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--step-ms", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    print(f"{date.today()}, {platform.machine()}, {cores} cores, step {options.step_ms:g} ms")
    # A collection would stop the client for as long as some steps.
    gc.disable()
    with tempfile.TemporaryDirectory() as folder:
        if options.only != "grpc":
            with serving(1, options, Path(folder)) as server:
                address = server.http.removeprefix("http://")
                measured = measure(http_streams.open_streams, address, server.pid, options)
                print_rounds("HTTP, 1 API process", uvloop.run(measured), options)
        if options.only != "http":
            with serving(2, options, Path(folder)) as server:
                measured = measure(grpc_streams.open_streams, server.grpc, server.pid, options)
                print_rounds("gRPC, 2 API processes", uvloop.run(measured), options)


if __name__ == "__main__":
    main()
