"""Loads this server and another in turn, and prints how they compare.

    make bench PEER=http://127.0.0.1:8080
    make bench PEER="llama-server -m model.gguf --port {port} -np 32"
    make bench PEER=... ARGS="--streams 1 8 --rates 2 4 --workload edit"

A peer is any OpenAI-compatible server, at a URL or started by a command in which {port} stands for
its port. The two take turns in every load: ours, theirs, ours, theirs. Results go into a folder, as
JSON and as a plot. The machine's other work meets both; read the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from benchmarks.load.loops import closed, opened
from benchmarks.load.options import make_parser
from benchmarks.load.plots import draw
from benchmarks.load.summary import Bound, Summary, ratio, summarize
from benchmarks.load.target import Target
from benchmarks.load.workloads import Body, bodies
from models.demo import ensure as ensure_demo

# How long an open loop sends requests, unless their number is given.
_OPEN_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Load:
    """So many streams at all times, or so many requests per second."""

    streams: int = 0
    per_second: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.streams} streams" if self.streams else f"{self.per_second:g}/s"


class Comparison:
    """Both servers, running, and all that was measured of them."""

    def __init__(self, targets: list[Target], options: argparse.Namespace) -> None:
        self._targets, self._options = targets, options
        self._seed = int(datetime.now().timestamp())
        self.results: dict[str, dict[str, list[Summary]]] = {each.name: {} for each in targets}

    def run(self, load: Load) -> None:
        """All rounds of one load; the first, shorter, is not counted."""
        for target in self._targets:
            self._run(target, Load(streams=1), requests=1)
        for _ in range(self._options.rounds):
            for target in self._targets:
                summary = self._run(target, load, self._requests(load))
                self.results[target.name].setdefault(load.name, []).append(summary)

    def ratios(self, load: Load, field: str) -> tuple[float, float, float]:
        """Of the first server to the second: median, least and greatest."""
        ours, theirs = (
            [getattr(each, field) for each in self.results[target.name][load.name]]
            for target in self._targets
        )
        return ratio(ours, theirs)

    def _requests(self, load: Load) -> int:
        asked: int = self._options.requests
        return asked or max(4, 2 * load.streams, round(_OPEN_SECONDS * load.per_second))

    def _run(self, target: Target, load: Load, requests: int) -> Summary:
        self._seed += 1
        asked = self._bodies(target)
        before = target.cpu_seconds()
        if load.streams:
            going = closed(target.url, asked, load.streams, requests)
        else:
            going = opened(target.url, asked, load.per_second, requests, self._seed)
        streams = asyncio.run(going)
        after = target.cpu_seconds()
        used = None if before is None or after is None else after - before
        bound = Bound(self._options.ttft_ms / 1e3, self._options.tpot_ms / 1e3)
        return summarize(streams, bound, used, target.memory_bytes())

    def _bodies(self, target: Target) -> Iterator[Body]:
        options = self._options
        fields: dict[str, Any] = {
            "model": target.model,
            "max_tokens": options.new_tokens,
            "temperature": options.temperature,
            "seed": 1,
        }
        if options.workload == "random":
            fields["ignore_eos"] = True
        for body in bodies(options.workload, options.prompt_tokens, self._seed):
            yield fields | body


def print_load(comparison: Comparison, load: Load) -> None:
    """A row per server and load, in the middle round, and the ratios of all rounds."""
    for name, loads in comparison.results.items():
        rounds = sorted(loads[load.name], key=lambda each: each.tokens_per_second)
        one = rounds[len(rounds) // 2]
        taken = "-" if one.cpu_seconds is None else f"{one.cpu_seconds / one.tokens * 1e3:.1f}"
        memory = "-" if one.memory_bytes is None else f"{one.memory_bytes / 1e9:.2f}"
        print(
            f"| {load.name} | {name} | {one.tokens_per_second:.1f} | {_ms(one.ttft)} "
            f"| {_ms(one.tpot)} | {_ms(one.itl)} | {one.goodput:.2f} | {taken} | {memory} "
            f"| {one.tokens_per_part:.2f} |"
        )
    middle, least, most = comparison.ratios(load, "tokens_per_second")
    print(
        f"| {load.name} | ratio of tokens/s | {middle:.2f} ({least:.2f} to {most:.2f}) |"
        + " |" * 7,
        flush=True,
    )


def _ms(percentiles: dict[int, float]) -> str:
    return " / ".join(f"{value * 1e3:.0f}" for value in percentiles.values()) or "-"


def write(comparison: Comparison, options: argparse.Namespace, title: str) -> None:
    """results.json and throughput.png, in the folder of the options."""
    options.out.mkdir(parents=True, exist_ok=True)
    found = {
        name: {load: [asdict(each) for each in rounds] for load, rounds in loads.items()}
        for name, loads in comparison.results.items()
    }
    asked = {key: str(value) for key, value in vars(options).items()}
    text = json.dumps({"title": title, "options": asked, "results": found}, indent=1)
    (options.out / "results.json").write_text(text + "\n")
    draw(comparison.results, title, options.out / "throughput.png")
    print(f"\nresults.json and throughput.png are in {options.out}")


def main() -> None:
    options = make_parser().parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    ours = options.ours
    if "{demo}" in ours:
        ours = ours.replace("{python}", sys.executable).replace("{demo}", str(ensure_demo()))
    loads = [Load(streams=count) for count in options.streams]
    loads += [Load(per_second=rate) for rate in options.rates]
    cores = len(os.sched_getaffinity(0))
    title = f"{datetime.now():%Y-%m-%d}, {platform.machine()}, {cores} cores, {options.workload}"
    with ExitStack() as running:
        targets = [
            running.enter_context(Target(name, where, options.out / f"{name}.log"))
            for name, where in ((options.ours_name, ours), (options.peer_name, options.peer))
        ]
        print(f"{title}, load average {os.getloadavg()[0]:.1f} before the first load")
        print("\n| load | server | tokens/s | TTFT p50 / p90 / p99 ms | TPOT ms | ITL ms |", end="")
        print(" good requests/s | CPU ms per token | memory GB | tokens per part |")
        print("|" + "---|" * 10)
        comparison = Comparison(targets, options)
        for load in loads:
            comparison.run(load)
            print_load(comparison, load)
    write(comparison, options, title)


if __name__ == "__main__":
    main()
