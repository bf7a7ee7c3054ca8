"""Measures streams from a real server over HTTP, and prints them next to the memory floor.

    make bench                      both models, 1, 8 and 32 streams
    make bench ARGS="--streams 8"

Each stream generates 128 tokens after a prompt of 128 random tokens. The memory floor is the time
to read weights and KV once per step, at the bandwidth measured just before. The ratio is the
server's step time divided by the floor.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import httpx

from benchmarks.bandwidth import read_bandwidth
from benchmarks.random_model import ensure as ensure_random
from models.demo import DEFAULT_ROOT
from models.demo import ensure as ensure_demo

_PROMPT_TOKENS, _NEW_TOKENS = 128, 128
_HTTP_PORT, _GRPC_PORT = 18080, 19080


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream's times, in seconds since its request was sent."""

    token_times: list[float]

    @property
    def first(self) -> float:
        return self.token_times[0]


@dataclass(frozen=True, slots=True)
class Footprint:
    """The bytes that one step must read: all weights, and the KV of every stream."""

    weight_bytes: int
    kv_bytes_per_token: int

    def floor(self, streams: int, bandwidth: float) -> float:
        """The least seconds per decode step, at the streams' mean context."""
        context = _PROMPT_TOKENS + _NEW_TOKENS / 2
        return (self.weight_bytes + streams * context * self.kv_bytes_per_token) / bandwidth


def footprint(checkpoint: Path) -> Footprint:
    """The bytes per step, from the checkpoint's files; KV is float32 on CPU."""
    config = json.loads((checkpoint / "config.json").read_text())
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    kv = 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head_dim * 4
    weights = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
    return Footprint(weights, kv)


async def run_streams(url: str, model: str, count: int) -> list[Stream]:
    """Start `count` streams at once and read them all to their ends."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        return await asyncio.gather(*(_stream(client, model, seed) for seed in range(count)))


async def _stream(client: httpx.AsyncClient, model: str, seed: int) -> Stream:
    prompt = random.Random(time.time_ns() + seed).choices(range(1000, 40000), k=_PROMPT_TOKENS)
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": _NEW_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "return_token_ids": True,
    }
    times: list[float] = []
    start = time.perf_counter()
    async with client.stream("POST", "/v1/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                tokens = sum(len(c["token_ids"]) for c in json.loads(line[6:])["choices"])
                times += [time.perf_counter() - start] * tokens
    return Stream(times)


class Server:
    """A server on its own ports, for the duration of a `with`."""

    def __init__(self, checkpoint: Path) -> None:
        self._checkpoint = checkpoint
        self.url = f"http://127.0.0.1:{_HTTP_PORT}"

    def __enter__(self) -> Server:
        command = [sys.executable, "-m", "server", "serve", "--model", str(self._checkpoint)]
        command += ["--host", "127.0.0.1", "--log-level", "warning"]
        command += ["--http-port", str(_HTTP_PORT), "--grpc-port", str(_GRPC_PORT)]
        self._process = subprocess.Popen(command)
        start = time.perf_counter()
        while not self._is_ready():
            time.sleep(0.2)
        self.ready_seconds = time.perf_counter() - start
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(timeout=60)

    def _is_ready(self) -> bool:
        if self._process.poll() is not None:
            raise SystemExit(f"the server exited with {self._process.returncode}")
        try:
            return httpx.get(f"{self.url}/readyz").is_success
        except httpx.TransportError:
            return False


def measure(checkpoint: Path, stream_counts: list[int], repeats: int, bandwidth: float) -> None:
    """Print one row per number of streams: medians over `repeats` runs."""
    model, size = checkpoint.parent.name, footprint(checkpoint)
    with Server(checkpoint) as server:
        print(f"\n{model}: {size.weight_bytes / 1e6:.0f} MB, ready in {server.ready_seconds:.1f} s")
        print("streams  tok/s  TTFT p50 ms  step ms  floor ms  step/floor")
        asyncio.run(run_streams(server.url, model, 1))
        for count in stream_counts:
            runs = [asyncio.run(run_streams(server.url, model, count)) for _ in range(repeats)]
            _print_row(runs, count, size.floor(count, bandwidth))


def _print_row(runs: list[list[Stream]], count: int, floor: float) -> None:
    tokens_per_second, first, step = [], [], []
    for streams in runs:
        end = max(stream.token_times[-1] for stream in streams)
        all_started = max(stream.first for stream in streams)
        tokens_per_second.append(count * _NEW_TOKENS / end)
        first.append(statistics.median(stream.first for stream in streams))
        # The steps are decode steps with this many rows only while every stream decodes.
        late = [t for t in streams[0].token_times if t >= all_started]
        step.append((late[-1] - late[0]) / max(1, len(late) - 1))
    rate, ttft, ms = (statistics.median(values) for values in (tokens_per_second, first, step))
    print(
        f"{count:7d} {rate:6.1f} {ttft * 1e3:12.0f} {ms * 1e3:8.1f} {floor * 1e3:9.1f}"
        f" {ms / floor:11.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    bandwidth = read_bandwidth()
    cores = len(os.sched_getaffinity(0))
    print(f"{date.today()}, {platform.machine()}, {cores} cores, {bandwidth / 1e9:.1f} GB/s read")
    demo = ensure_demo()
    for checkpoint in (demo, ensure_random(DEFAULT_ROOT, demo)):
        measure(checkpoint, arguments.streams, arguments.repeats, bandwidth)


if __name__ == "__main__":
    main()
