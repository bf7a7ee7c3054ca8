"""`python -m k8s.clusters`: installs the charts on two real clusters, runs checks and scenarios.

Writes build/clusters, and exits with 1 if a promise was broken or a check found something.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from k8s.clusters import checks
from k8s.clusters.checks import LAST
from k8s.clusters.control_plane import programs
from k8s.clusters.control_plane.custom_resources import open_kinds, published
from k8s.clusters.envoy_gateway import EnvoyGateway
from k8s.clusters.groups import Groups
from k8s.clusters.host import isolation
from k8s.clusters.host.unavailable import UnavailableError
from k8s.clusters.kubelet import images
from k8s.clusters.lab import Clusters
from k8s.clusters.region import gateway
from k8s.clusters.scenarios import PICKER, SCENARIOS, SHORT
from k8s.lab.chart_numbers import REGIONS
from k8s.lab.load import LoadShape
from k8s.lab.page import write_page, write_picture
from k8s.lab.report import Result
from k8s.lab.run import run_under_load, say
from k8s.lab.scenarios import Scenario
from k8s.lab.table import table

INTERRUPTED = 130
MEBIBYTE = 1 << 20


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m k8s.clusters", description=__doc__)
    names = [scenario.name for scenario in (*SCENARIOS, PICKER)]
    parser.add_argument("--scenario", action="append", choices=names, help="run only this one")
    parser.add_argument("--short", action="store_true", help="what CI runs, without time limits")
    parser.add_argument("--rate", type=float, default=20.0, help="unary requests per second")
    parser.add_argument("--streams", type=int, default=4, help="concurrent streams")
    parser.add_argument("--stream-tokens", type=int, default=250, help="tokens per stream")
    parser.add_argument("--replicas", type=int, default=2, help="servers per region")
    parser.add_argument("--kubernetes", choices=programs.MINORS, default=programs.DEFAULT_MINOR)
    parser.add_argument("--helm", choices=programs.HELMS, default=programs.DEFAULT_HELM)
    parser.add_argument("--picker", type=Path, help="the program of the endpoint picker's image")
    parser.add_argument(
        "--if-built-within",
        type=float,
        metavar="MINUTES",
        help="where this machine cannot build or run the lab, say so and exit with 0",
    )
    parser.add_argument("--envoy-gateway", action="store_true", help="run Envoy Gateway too")
    parser.add_argument("--admission", action="store_true", help="only ask what is admitted")
    parser.add_argument(
        "--groups", action="store_true", help="only servers of four hosts, by LeaderWorkerSet"
    )
    parser.add_argument("--output", type=Path, default=Path("build/clusters"))
    return parser


@dataclass(slots=True)
class Outcome:
    """What was found so far. `checks` has what is wrong, by check."""

    facts: dict[str, Any]
    checks: dict[str, list[str]] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        broken = any(result.broken_promises for result in self.results)
        return not broken and not any(self.checks.values())


def main() -> int:
    arguments = parser().parse_args()
    try:
        built = _open(arguments)
    except UnavailableError as reason:
        print(f"clusters: not run: {reason}", file=sys.stderr)
        return 1 if arguments.if_built_within is None else 0
    shutil.rmtree(arguments.output, ignore_errors=True)
    arguments.output.mkdir(parents=True)
    outcome = Outcome(_facts(arguments, built))
    try:
        asyncio.run(_run(arguments, built, outcome))
    except asyncio.CancelledError:
        print("\nended before everything was finished", file=sys.stderr)
        return INTERRUPTED
    _print(outcome)
    page = arguments.output / "index.html"
    if outcome.results:
        print(f"\nreport: {arguments.output / 'report.json'}\npage:   {page}")
        if picture := write_picture(page):
            print(f"picture: {picture}")
    return 0 if outcome.is_good else 1


def _open(arguments: argparse.Namespace) -> programs.Programs:
    """The programs, and a network of the lab's own. UnavailableError where one cannot be had."""
    isolation.check()
    minutes = arguments.if_built_within
    within = math.inf if minutes is None else minutes * 60
    wanted = {
        programs.LEADER_WORKER_SET: arguments.groups,
        programs.ENVOY_GATEWAY: arguments.envoy_gateway,
    }
    more = [folder for folder, is_wanted in wanted.items() if is_wanted]
    built = programs.build(arguments.kubernetes, arguments.helm, within, more)
    if built.seconds:
        print(f"built in {built.seconds:.0f} s", file=sys.stderr, flush=True)
    for folder in more:
        # Within its own network the lab reaches no module proxy.
        programs.source(folder)
    isolation.go_inside("k8s.clusters", sys.argv[1:])
    isolation.make_network([gateway(number) for number in range(1, len(REGIONS) + 1)])
    return built


def _facts(arguments: argparse.Namespace, built: programs.Programs) -> dict[str, Any]:
    """What the report says of the run itself. Missing parts are named, each in a line."""
    folder = definitions()
    missing = []
    if not arguments.envoy_gateway:
        missing.append("no Envoy Gateway runs: it does with --envoy-gateway")
    if arguments.picker is None:
        missing.append("no endpoint picker runs: name its program with --picker")
    if not arguments.groups:
        missing.append("no LeaderWorkerSet controller runs: it does with --groups")
    without = [kind.name for kind in open_kinds(published(folder))]
    missing.append(f"admitted without a schema: {', '.join(without)}")
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "cpus": os.cpu_count(),
        "kubernetes": built.kubernetes,
        "helm": built.helm,
        "missing": missing,
    }


def definitions() -> Path | None:
    """The folder of published definitions of custom resources, if CRD_SCHEMAS names one."""
    folder = os.environ.get("CRD_SCHEMAS")
    return Path(folder).resolve() if folder else None


async def _run(arguments: argparse.Namespace, built: programs.Programs, outcome: Outcome) -> None:
    """However it ends, no process is left, and what was finished is reported."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    known = images.table(
        arguments.picker, Path(built["envoy-gateway"]) if arguments.envoy_gateway else None
    )
    if arguments.groups:
        await _run_groups(Groups(arguments.output.resolve(), built, known), outcome)
        _write(arguments.output, outcome)
        return
    clusters = Clusters(arguments.output.resolve(), built, known, arguments.replicas)
    if arguments.envoy_gateway:
        source = programs.source(programs.ENVOY_GATEWAY)
        clusters.envoy_gateway = EnvoyGateway(source, clusters.regions[REGIONS[1]])
    try:
        say("starting two control planes")
        await clusters.start(definitions())
        if arguments.admission:
            await _check("admitted", partial(checks.admitted, clusters), outcome)
        else:
            await _run_all(arguments, clusters, outcome)
    finally:
        await clusters.close()


async def _run_groups(groups: Groups, outcome: Outcome) -> None:
    try:
        say("starting a control plane and LeaderWorkerSet's controller")
        await groups.start(definitions())
        await _check("groups", groups.check, outcome)
        outcome.facts["groups"] = asdict(groups.figures)
    finally:
        await groups.close()


async def _run_all(arguments: argparse.Namespace, clusters: Clusters, outcome: Outcome) -> None:
    shape = LoadShape(
        rate=arguments.rate,
        num_streams=arguments.streams,
        stream_tokens=arguments.stream_tokens,
        stream_pause=0.5,
    )
    say("installing the charts")
    await clusters.install()
    outcome.facts |= {"figures": asdict(clusters.figures)}
    say(f"ready: {clusters.figures}")
    await clusters.expect(shape.stream_tokens)
    if not arguments.scenario:
        for name, check in checks.chosen(clusters, is_short=arguments.short).items():
            await _check(name, partial(check, clusters), outcome)
    outcome.facts |= {"shares": clusters.shares, "routed": clusters.routed}
    for scenario in _chosen(arguments):
        outcome.results.append(await _scenario(scenario, clusters, shape))
        _write(arguments.output, outcome)
    for name, check in LAST.items():
        await _check(name, partial(check, clusters), outcome)
    _write(arguments.output, outcome)


def _chosen(arguments: argparse.Namespace) -> list[Scenario[Clusters]]:
    wanted = SHORT if arguments.short else arguments.scenario
    known = (*SCENARIOS, PICKER) if arguments.picker else SCENARIOS
    chosen = [one for one in known if not wanted or one.name in wanted]
    # On a shared machine a slow answer is reported, but breaks no promise.
    return [replace(one, within=None) for one in chosen] if arguments.short else chosen


async def _scenario(scenario: Scenario[Clusters], clusters: Clusters, shape: LoadShape) -> Result:
    """An exception becomes a result, so that the other scenarios' results are not lost."""
    try:
        say("restoring")
        await clusters.restore()
        by_picker = scenario is PICKER
        if by_picker:
            await clusters.until_picked()
        load = clusters.load(shape, by_picker=by_picker)
        return await run_under_load(
            scenario, clusters, load, shape, clusters.numbers, clusters.pids
        )
    except Exception as error:
        traceback.print_exc()
        return Result.unfinished(scenario, shape, error)


async def _check(name: str, check: Callable[[], Awaitable[list[str]]], outcome: Outcome) -> None:
    say(f"checking: {name}")
    try:
        outcome.checks[name] = await check()
    except Exception as error:
        traceback.print_exc()
        outcome.checks[name] = [f"it did not finish: {type(error).__name__}: {error}"]


def _write(folder: Path, outcome: Outcome) -> None:
    scenarios = [result.as_json() for result in outcome.results]
    report = outcome.facts | {"checks": outcome.checks, "scenarios": scenarios}
    (folder / "report.json").write_text(json.dumps(report, indent=1))
    if scenarios:
        write_page(report, folder)


def _print(outcome: Outcome) -> None:
    facts = outcome.facts
    print(f"\nKubernetes {facts['kubernetes']}, Helm {facts['helm']}")
    if figures := facts.get("figures"):
        memory = figures["control_plane_bytes"] / MEBIBYTE, figures["server_bytes"] / MEBIBYTE
        print(
            f"control planes up in {figures['control_planes']} s; "
            f"installed in {figures['installed']} s, ready in {figures['ready']} s; "
            f"control planes {memory[0]:.0f} MiB, servers {memory[1]:.0f} MiB"
        )
    if groups := facts.get("groups"):
        print("groups:", ", ".join(f"{name} {figure}" for name, figure in groups.items()))
    if routed := facts.get("routed"):
        print(f"Envoy Gateway: installed, and the gateway's chart taken, in {routed} s")
    if shares := facts.get("shares"):
        print("picker:", ", ".join(f"{name} {share:.2f}" for name, share in shares.items()))
    for words in facts["missing"]:
        print(f"missing: {words}")
    for name, wrong in outcome.checks.items():
        print(f"check {name}: {'good' if not wrong else f'{len(wrong)} faults'}")
        for words in wrong:
            print(f"  {words}")
    if outcome.results:
        print(table(outcome.results))


if __name__ == "__main__":
    sys.exit(main())
