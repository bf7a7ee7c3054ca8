"""The scenarios: how each breaks a region, and what each promises.

A scenario is data and one function that breaks something. All scenarios run in the same way.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from k8s.lab.chart_numbers import Numbers
from k8s.lab.fleet import NEW_VERSION, Fleet, Replica
from k8s.lab.load import LoadGenerator

# Seconds from the end of the last process, or from its signal, to the first answer.
AT_ONCE_SECONDS = 0.05
SWAP_SECONDS = 17.0

# Breaks something and returns when it took effect: for a kill, when the last process was gone.
# `Place` is what it is done to: here the fleet.
type Breaking[Place] = Callable[[Place, LoadGenerator], Awaitable[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario[Place]:
    """`first_answer` must come from the other region, or from any if requests may stay, `within`
    seconds (None: no promise). The lab watches for `seconds`, by default until the health checks
    have noticed the failure. `may_refuse`: a full queue counts as an answer. `prepare` runs before
    any load. `most_slow_waves`: how often requests may find the silence (None: no promise).
    `loses_in_flight`: requests of plain clients may fail that are in flight when it happens.
    """

    name: str
    description: str
    break_it: Breaking[Place]
    prepare: Breaking[Place] | None = None
    first_answer: Literal["other region", "any region"] = "other region"
    within: Callable[[Numbers], float] | None = None
    seconds: float = 20.0
    may_refuse: bool = False
    most_slow_waves: int | None = None
    loses_in_flight: bool = False


def _primary(fleet: Fleet) -> list[Replica]:
    return next(iter(fleet.regions.values()))


async def _kill(fleet: Fleet, _: LoadGenerator) -> float:
    return await _kill_all(_primary(fleet))


async def _kill_all(replicas: list[Replica]) -> float:
    for replica in replicas:
        replica.signal(signal.SIGKILL)
    for replica in replicas:
        await replica.wait_dead()
    return time.monotonic()


async def _freeze(fleet: Fleet, _: LoadGenerator) -> float:
    for replica in _primary(fleet):
        replica.signal(signal.SIGSTOP)
    return time.monotonic()


async def _drain(fleet: Fleet, _: LoadGenerator) -> float:
    for replica in _primary(fleet):
        replica.drain()
    return time.monotonic()


async def _lose_replica(fleet: Fleet, _: LoadGenerator) -> float:
    return await _kill_all(_primary(fleet)[:1])


async def _hang(fleet: Fleet, _: LoadGenerator) -> float:
    for replica in _primary(fleet):
        replica.hang()
    return time.monotonic()


async def _swap(fleet: Fleet, _: LoadGenerator) -> float:
    """Kill the region while it loads the new version, before any replica serves it: a stream of a
    version that only the killed region had could not be resumed.
    """
    replicas = _primary(fleet)
    fleet.configure(next(iter(fleet.regions)), NEW_VERSION)
    # The window is a tenth of a second and the event loop drives the load, so a thread does it.
    await asyncio.to_thread(_kill_loading, replicas)
    ended = await _kill_all(replicas)
    if any(replica.has_logged(f"version {NEW_VERSION} is served") for replica in replicas):
        raise TimeoutError("a replica served the new version before the kill reached it")
    return ended


def _kill_loading(replicas: list[Replica]) -> None:
    """Wait until one replica loads the new version, then kill all."""
    deadline = time.monotonic() + SWAP_SECONDS
    while not any(replica.has_logged(f"version {NEW_VERSION} is LOADING") for replica in replicas):
        if time.monotonic() > deadline:
            raise TimeoutError("no replica began to load the new version")
        time.sleep(0.002)
    for replica in replicas:
        replica.signal(signal.SIGKILL)


async def _overload(_: Fleet, load: LoadGenerator) -> float:
    load.burst(120, 40)
    return time.monotonic()


async def _bring_back(fleet: Fleet, _: LoadGenerator) -> float:
    await fleet.restore()
    return time.monotonic()


SCENARIOS = (
    Scenario(
        name="kill",
        description="kill -9 of every process of the primary region",
        break_it=_kill,
        within=lambda _: AT_ONCE_SECONDS,
        seconds=10.0,
    ),
    Scenario(
        name="freeze",
        description="SIGSTOP of every process of the primary region: connections stay, no answers",
        break_it=_freeze,
        within=lambda numbers: numbers.silence,
        # Longer than an ejection, so that a second wave would be seen.
        seconds=35.0,
        most_slow_waves=1,
    ),
    Scenario(
        name="drain",
        description="SIGTERM to the primary region: it answers until the gateway leaves it",
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
        seconds=10.0,
    ),
    Scenario(
        name="hang",
        description="the primary region's engines stop; its servers still answer",
        break_it=_hang,
        within=lambda numbers: numbers.silence,
    ),
    Scenario(
        name="swap",
        description="the primary region is killed while it loads a new model version",
        break_it=_swap,
        seconds=10.0,
    ),
    Scenario(
        name="overload",
        description="120 longer requests at once: requests that find a full queue spill over",
        break_it=_overload,
        first_answer="any region",
        may_refuse=True,
        seconds=10.0,
    ),
    Scenario(
        name="back",
        description="the primary region, down before, comes back under load",
        prepare=_kill,
        break_it=_bring_back,
        first_answer="any region",
    ),
)
SHORT = ("kill", "drain")
