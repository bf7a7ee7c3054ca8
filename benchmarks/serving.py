"""Measures streams from a real server over HTTP, and prints them next to the memory floor.

    make bench                      both models, 1, 8 and 32 streams
    make bench ARGS="--streams 8"
    make bench PEER=...             next to another server: benchmarks/compare.py

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
import shlex
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from benchmarks.bandwidth import read_bandwidth
from benchmarks.load.loops import closed
from benchmarks.load.stream import Stream
from benchmarks.load.target import Target
from benchmarks.load.workloads import bodies
from benchmarks.random_model import ensure as ensure_random
from models.demo import DEFAULT_ROOT
from models.demo import ensure as ensure_demo

_PROMPT_TOKENS, _NEW_TOKENS = 128, 128


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


def run_streams(target: Target, count: int) -> list[Stream]:
    """Start `count` streams at once and read them all to their ends."""
    asked = {
        "model": target.model,
        "max_tokens": _NEW_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    prompts = bodies("random", _PROMPT_TOKENS, seed=time.time_ns())
    return asyncio.run(closed(target.url, (asked | each for each in prompts), count, count))


def served(checkpoint: Path, *flags: str, **environment: str) -> Target:
    """This server on a checkpoint, on ports of its own."""
    variables = [f"{name}={value}" for name, value in environment.items()]
    command = ["env", *variables, sys.executable, "-m", "server", "serve", *flags]
    command += ["--model", str(checkpoint)]
    command += ["--host", "127.0.0.1", "--log-level", "warning"]
    command += ["--http-port", "{port}", "--grpc-port", "0"]
    return Target("antipode", shlex.join(command), Path(tempfile.gettempdir()) / "antipode.log")


def measure(checkpoint: Path, stream_counts: list[int], repeats: int, bandwidth: float) -> None:
    """Print one row per number of streams: medians over `repeats` runs."""
    model, size = checkpoint.parent.name, footprint(checkpoint)
    with served(checkpoint) as server:
        print(f"\n{model}: {size.weight_bytes / 1e6:.0f} MB, ready in {server.ready_seconds:.1f} s")
        print("streams  tok/s  TTFT p50 ms  step ms  floor ms  step/floor")
        run_streams(server, 1)
        for count in stream_counts:
            runs = [run_streams(server, count) for _ in range(repeats)]
            _print_row(runs, count, size.floor(count, bandwidth))


def _print_row(runs: list[list[Stream]], count: int, floor: float) -> None:
    tokens_per_second, first, step = [], [], []
    for streams in runs:
        start = min(stream.sent for stream in streams)
        end = max(stream.part_times[-1] for stream in streams)
        all_started = max(stream.part_times[0] for stream in streams)
        tokens_per_second.append(count * _NEW_TOKENS / (end - start))
        first.append(statistics.median(stream.ttft for stream in streams))
        # The steps are decode steps with this many rows only while every stream decodes.
        late = [t for t in streams[0].part_times if t >= all_started]
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
