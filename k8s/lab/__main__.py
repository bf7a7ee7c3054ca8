"""`python -m k8s.lab`: runs scenarios, writes build/failover, exits with 1 at a broken promise."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from k8s.lab.chart_numbers import Numbers
from k8s.lab.highest_rate import RateStep, find_rate
from k8s.lab.load import LoadShape
from k8s.lab.page import write_page, write_picture
from k8s.lab.report import Result
from k8s.lab.run import Lab
from k8s.lab.scenarios import SCENARIOS, SHORT
from k8s.lab.table import table

INTERRUPTED = 130


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m k8s.lab", description=__doc__)
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument("--scenario", action="append", choices=names, help="run only this one")
    parser.add_argument("--short", action="store_true", help="kill and drain, without time limits")
    parser.add_argument("--rate", type=float, default=40.0, help="unary requests per second")
    parser.add_argument("--streams", type=int, default=4, help="concurrent streams")
    parser.add_argument("--stream-tokens", type=int, default=250, help="tokens per stream")
    parser.add_argument("--stream-pause", type=float, default=0.5, help="seconds between streams")
    parser.add_argument("--replicas", type=int, default=2, help="servers per region")
    parser.add_argument("--rounds", type=int, default=1, help="how often to run all scenarios")
    parser.add_argument("--find-rate", action="store_true", help="only find the highest rate")
    parser.add_argument("--no-retries", action="store_true", help="turn the proxy's retries off")
    parser.add_argument("--no-resume", action="store_true", help="turn the client's resumption off")
    parser.add_argument("--output", type=Path, default=Path("build/failover"))
    return parser


def main() -> int:
    arguments = parser().parse_args()
    try:
        results = asyncio.run(_run(arguments))
    except asyncio.CancelledError:
        print("\nended before all scenarios were finished", file=sys.stderr)
        return INTERRUPTED
    if arguments.find_rate:
        return 0
    page = arguments.output / "index.html"
    print(f"\n{table(results)}\n\nreport: {arguments.output / 'report.json'}\npage:   {page}")
    if picture := write_picture(page):
        print(f"picture: {picture}")
    return 1 if any(result.broken_promises for result in results) else 0


async def _run(arguments: argparse.Namespace) -> list[Result]:
    """Runs the lab. However it ends, no server is left, and finished scenarios are reported."""
    task = asyncio.current_task()
    assert task is not None
    # SIGINT is set too, because a process started in the background inherits an ignored SIGINT.
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    wanted = SHORT if arguments.short else arguments.scenario
    chosen = [s for s in SCENARIOS if not wanted or s.name in wanted] * arguments.rounds
    if arguments.short:  # On a shared machine a slow answer is reported, but breaks no promise.
        chosen = [replace(scenario, within=None) for scenario in chosen]
    shape = _shape(arguments)
    lab = await Lab.open(
        arguments.output,
        Numbers.from_charts(),
        shape,
        retries=not arguments.no_retries,
        num_replicas=arguments.replicas,
    )
    results: list[Result] = []
    try:
        if arguments.find_rate:
            _write_rates(arguments, await find_rate(lab, shape))
            return []
        for scenario in chosen:
            results.append(await lab.run(scenario, shape))
            _write(arguments, results)
    finally:
        lab.close()
    return results


def _shape(arguments: argparse.Namespace) -> LoadShape:
    return LoadShape(
        rate=arguments.rate,
        num_streams=arguments.streams,
        stream_tokens=arguments.stream_tokens,
        stream_pause=arguments.stream_pause,
        resume=not arguments.no_resume,
    )


def _write(arguments: argparse.Namespace, results: list[Result]) -> None:
    report = {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "cpus": os.cpu_count(),
        "retries": not arguments.no_retries,
        "resume": not arguments.no_resume,
        "scenarios": [result.as_json() for result in results],
    }
    (arguments.output / "report.json").write_text(json.dumps(report, indent=1))
    write_page(report, arguments.output)


def _write_rates(arguments: argparse.Namespace, steps: list[RateStep]) -> None:
    path = arguments.output / "rates.json"
    path.write_text(json.dumps([step.as_json() for step in steps], indent=1))


if __name__ == "__main__":
    sys.exit(main())
