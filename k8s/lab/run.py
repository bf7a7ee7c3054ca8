"""Runs one scenario after another: load, break, watch, restore.

This module decides how long the phases before, during and after a failure take.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from k8s.lab.chart_numbers import REGIONS, Numbers
from k8s.lab.cores import Clocks
from k8s.lab.fleet import MODEL, VERSION, Fleet
from k8s.lab.load import UNARY_TOKENS, Expected, LoadGenerator, LoadShape, undisturbed
from k8s.lab.ports import free_ports
from k8s.lab.proxy import Address, Proxy, configuration
from k8s.lab.report import Result, evaluate
from k8s.lab.scenarios import Scenario

SETTLE_SECONDS = 60.0
# Seconds of load before a failure, and after the regions should have settled.
BEFORE_SECONDS, AFTER_SECONDS = 6.0, 3.0


class Lab:
    """The running regions and proxy."""

    def __init__(
        self,
        fleet: Fleet,
        proxy: Proxy,
        numbers: Numbers,
        expected: Expected,
        address: Address,
    ) -> None:
        self._fleet = fleet
        self._proxy = proxy
        self._numbers = numbers
        self._expected = expected
        self._address = address

    @classmethod
    async def open(
        cls,
        folder: Path,
        numbers: Numbers,
        shape: LoadShape,
        *,
        retries: bool,
        num_replicas: int,
    ) -> Lab:
        """Start everything; the caller closes it."""
        folder.mkdir(parents=True, exist_ok=True)
        fleet = Fleet(numbers, num_replicas, folder)
        try:
            # One after another: the first server compiles, with all cores, for the others.
            for replica in fleet.replicas:
                say(f"starting {replica.name}")
                replica.start()
                await replica.wait_ready()
            expected = await _expected(fleet, shape.stream_tokens)
            with free_ports(2 * len(REGIONS)) as ports:
                taken = iter(ports)
                addresses = {region: Address(next(taken), next(taken)) for region in REGIONS}
            replicas = {
                region: [replica.address for replica in those]
                for region, those in fleet.regions.items()
            }
            config = configuration(replicas, addresses, numbers, retries=retries)
            proxy = Proxy(config, folder)
        except BaseException:
            fleet.end()
            raise
        return cls(fleet, proxy, numbers, expected, addresses[REGIONS[0]])

    def close(self) -> None:
        self._proxy.stop()
        self._fleet.end()

    async def run(self, scenario: Scenario[Fleet], shape: LoadShape) -> Result:
        """Run one scenario on sound regions; does not restore them. An exception becomes a result
        too, so that the other scenarios' results are not lost.
        """
        try:
            say("restoring")
            await self._fleet.restore()
            await self._settle()
            return await self._run(scenario, shape)
        except Exception as error:
            traceback.print_exc()
            return Result.unfinished(scenario, shape, error)

    async def _run(self, scenario: Scenario[Fleet], shape: LoadShape) -> Result:
        load = self._load(shape)
        return await run_under_load(scenario, self._fleet, load, shape, self._numbers, self.pids)

    @asynccontextmanager
    async def steady_load(self, shape: LoadShape) -> AsyncIterator[LoadGenerator]:
        """Load on sound regions, with nothing broken."""
        await self._settle()
        load = self._load(shape)
        load.start()
        try:
            yield load
        finally:
            await load.aclose()

    def pids(self) -> dict[str, list[int]]:
        """The running processes, by the group they belong to."""
        running = [replica for replica in self._fleet.replicas if not replica.has_ended]
        servers = [pid for replica in running for pid in replica.pids]
        return {"servers": servers, "proxy": [self._proxy.pid], "load": [os.getpid()]}

    def _load(self, shape: LoadShape) -> LoadGenerator:
        return LoadGenerator(self._address, shape, MODEL, self._expected, self._fleet.region_of)

    async def _settle(self) -> None:
        """Wait until the proxy uses every replica: health checks passed, ejections expired."""
        async with asyncio.timeout(SETTLE_SECONDS):
            while not await self._proxy.is_whole():
                await asyncio.sleep(0.5)


async def run_under_load[Place](
    scenario: Scenario[Place],
    place: Place,
    load: LoadGenerator,
    shape: LoadShape,
    numbers: Numbers,
    pids: Callable[[], Mapping[str, Sequence[int]]],
) -> Result:
    """Load, break, watch. `pids` gives the running processes by group. The load is closed."""
    if scenario.prepare is not None:
        await scenario.prepare(place, load)
    load.start()
    watching = asyncio.create_task(_watch(scenario.name, load))
    try:
        clocks = Clocks.read(pids())
        await asyncio.sleep(BEFORE_SECONDS)
        cores = Clocks.read(pids()).cores_since(clocks)
        began = time.monotonic()
        event, _ = await asyncio.gather(
            scenario.break_it(place, load), asyncio.sleep(scenario.seconds)
        )
        settled = time.monotonic()
        await asyncio.sleep(AFTER_SECONDS)
        await load.finish()
    finally:
        watching.cancel()
        await load.aclose()
    result = evaluate(
        scenario,
        load.record,
        shape,
        numbers,
        primary=REGIONS[0],
        began=began,
        event=event,
        settled=settled,
    )
    return replace(result, cores_before=cores)


async def _watch(name: str, load: LoadGenerator) -> None:
    start, seen = time.monotonic(), 0
    while True:
        await asyncio.sleep(1)
        fresh, seen = load.record.answers[seen:], len(load.record.answers)
        shares = " ".join(f"{r} {sum(a.region == r for a in fresh):4d}/s" for r in REGIONS)
        failed = sum(bool(a.error) for a in load.record.answers)
        broken = sum(bool(s.error) for s in load.record.streams)
        resumed = sum(s.num_resumed for s in load.record.streams)
        say(
            f"{name:9s} {time.monotonic() - start:4.0f} s  {shares}  "
            f"failed {failed}  streams {len(load.record.streams)}, "
            f"resumed {resumed}, broken {broken}"
        )


async def _expected(fleet: Fleet, num_tokens: int) -> Expected:
    """Each prompt's tokens, from the first server. The others generate a few tokens too: a region
    with its own users has answered before, and a server's first answer is slow.
    """
    first, *others = fleet.replicas
    expected = await undisturbed(first.address, num_tokens)
    for replica in others:
        found = await undisturbed(replica.address, UNARY_TOKENS)
        if found != [token_ids[:UNARY_TOKENS] for token_ids in expected]:
            raise ValueError(f"{replica.name} and {first.name} give different tokens")
    return {str(VERSION): expected}


def say(line: str) -> None:
    """Print progress: on a terminal in one changing line, elsewhere line by line."""
    end = "" if sys.stderr.isatty() else "\n"
    print(f"\r\033[K{line}" if not end else line, end=end, file=sys.stderr, flush=True)
