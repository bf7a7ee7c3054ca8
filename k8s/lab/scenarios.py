"""What happens to the regions, and what is promised of it.

A scenario is data and one function that breaks something; the run around it is the same for all.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from k8s.lab.fleet import NEW_VERSION, Fleet, Replica
from k8s.lab.load import Load
from k8s.lab.numbers import Numbers

# A death that is seen at once delays an answer by no more than this, over what answers take anyway.
AT_ONCE_SECONDS = 0.05
SWAP_SECONDS = 17.0

type Breaking = Callable[[Fleet, Load], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """`first_answer` is of the other region, or of any where requests may stay; `within` in
    seconds over the p99 before, None where nothing is promised. `may_refuse`: full queues are an
    answer. `prepare` is done before there is any load.
    """

    name: str
    description: str
    break_it: Breaking
    prepare: Breaking | None = None
    first_answer: Literal["other region", "any region"] = "other region"
    within: Callable[[Numbers], float] | None = None
    may_refuse: bool = False


def _primary(fleet: Fleet) -> list[Replica]:
    return next(iter(fleet.regions.values()))


async def _kill(fleet: Fleet, _: Load) -> None:
    for replica in _primary(fleet):
        replica.signal(signal.SIGKILL)


async def _freeze(fleet: Fleet, _: Load) -> None:
    for replica in _primary(fleet):
        replica.signal(signal.SIGSTOP)


async def _drain(fleet: Fleet, _: Load) -> None:
    for replica in _primary(fleet):
        replica.drain()


async def _lose_replica(fleet: Fleet, _: Load) -> None:
    _primary(fleet)[0].signal(signal.SIGKILL)


async def _hang(fleet: Fleet, _: Load) -> None:
    for replica in _primary(fleet):
        replica.hang()


async def _swap(fleet: Fleet, load: Load) -> None:
    """Kill the region while it loads the new version."""
    fleet.configure(next(iter(fleet.regions)), NEW_VERSION)
    async with asyncio.timeout(SWAP_SECONDS):
        while not await fleet.is_swapping(_primary(fleet)[0]):
            await asyncio.sleep(0.02)
    await _kill(fleet, load)


async def _overload(_: Fleet, load: Load) -> None:
    load.burst(120, 40)


async def _bring_back(fleet: Fleet, _: Load) -> None:
    await fleet.restore()


SCENARIOS = (
    Scenario(
        name="kill",
        description="kill -9 of every process of the primary region",
        break_it=_kill,
        within=lambda _: AT_ONCE_SECONDS,
    ),
    Scenario(
        name="freeze",
        description="SIGSTOP of every process of the primary region: connections stay, no answers",
        break_it=_freeze,
        within=lambda numbers: numbers.silence,
    ),
    Scenario(
        name="drain",
        description="SIGTERM to the primary region: it answers until the gateway looks elsewhere",
        break_it=_drain,
        first_answer="any region",
        within=lambda _: AT_ONCE_SECONDS,
    ),
    Scenario(
        name="replica",
        description="kill -9 of one of the primary region's two replicas",
        break_it=_lose_replica,
        first_answer="any region",
        within=lambda _: AT_ONCE_SECONDS,
    ),
    Scenario(
        name="hang",
        description="the primary region's engines stop; its servers go on to answer",
        break_it=_hang,
        within=lambda numbers: numbers.silence,
    ),
    Scenario(
        name="swap",
        description="the primary region is killed while it loads a new model version",
        break_it=_swap,
    ),
    Scenario(
        name="overload",
        description="120 longer requests at once: what finds full queues spills over",
        break_it=_overload,
        first_answer="any region",
        may_refuse=True,
    ),
    Scenario(
        name="back",
        description="the primary region, gone before, comes back under load",
        prepare=_kill,
        break_it=_bring_back,
        first_answer="any region",
    ),
)
SHORT = ("kill", "drain")
