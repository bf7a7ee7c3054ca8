"""Servers of several hosts on one region: LeaderWorkerSet's controller, two slices of four hosts.

Each host is a pod with a process of the real server; the hosts of a group meet by JAX on CPU. Knows
nothing of gateways and of the other region.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from k8s.clusters import overrides
from k8s.clusters.control_plane import programs
from k8s.clusters.control_plane.leader_worker_set import LeaderWorkerSetController
from k8s.clusters.control_plane.programs import Programs
from k8s.clusters.host.processes import descendants, memory_bytes
from k8s.clusters.kubelet.images import CHECKOUT, Image
from k8s.clusters.kubelet.pod import PodWorker
from k8s.clusters.lab import CHART, NEW_VERSION, RELEASE, SETTLE_SECONDS, VERSION
from k8s.clusters.machines import Machine, chart_table
from k8s.clusters.region import NAMESPACE, Region
from k8s.lab.chart_numbers import REGIONS

NUM_GROUPS = 2
NUM_HOSTS = int(chart_table("slices")[overrides.GROUP_SLICE]["hosts"])
_SECRET = "antipode-group"
_GROUP = "leaderworkerset.sigs.k8s.io/group-index"
_INDEX = "leaderworkerset.sigs.k8s.io/worker-index"
_ASK_SECONDS = 0.2
_NUM_TOKENS = 32


@dataclass(slots=True, kw_only=True)
class Figures:
    """Seconds, bytes and counts; `answered` counts requests to one group while the other came
    again, and `failed` those of them that it did not answer.
    """

    controller: float = 0.0
    first_group: float = 0.0
    second_group: float = 0.0
    version: float = 0.0
    after_deletion: float = 0.0
    after_kill: float = 0.0
    uninstalled: float = 0.0
    answered: int = 0
    failed: int = 0
    server_bytes: int = 0


class Groups:
    """`check` does everything, once. The caller closes it."""

    def __init__(self, folder: Path, built: Programs, images: Mapping[str, Image]) -> None:
        self.figures = Figures()
        self._folder = folder
        self._region = Region(REGIONS[0], 1, built, folder, images)
        source = programs.source(programs.LEADER_WORKER_SET)
        self._controller = LeaderWorkerSetController(built["lws"], source, self._region.plane)

    async def start(self, definitions: Path | None) -> None:
        overrides.fill_bucket(self._region.name, self._folder / self._region.name / "buckets")
        await self._region.start(machines(self._region.name), definitions)
        began = time.monotonic()
        await self._controller.start()
        self.figures.controller = _since(began)

    async def check(self) -> list[str]:
        """What is wrong: nothing if every group comes up, changes its version in place, comes again
        as a whole when one of its hosts is lost, and goes.
        """
        await self._install()
        wrong = [*self._misplaced(), *await self._differing(), *await self._change_version()]
        self.figures.after_deletion = await self._lose_host(self._delete)
        self.figures.after_kill = await self._lose_host(self._kill)
        if self.figures.failed:
            wrong.append(f"{self.figures.failed} requests failed in the group that lost no host")
        return [*wrong, *self._misplaced(), *await self._differing(), *await self._uninstall()]

    async def close(self) -> None:
        self._controller.stop()
        await self._region.stop()

    async def _install(self) -> None:
        """One group compiles for both; groups that start at once would all compile the same."""
        region = self._region
        key = f"--from-literal=secret={os.urandom(16).hex()}"
        await region.kubectl("create", "secret", "generic", _SECRET, key)
        path = region.folder / "overrides.yaml"
        path.write_text(yaml.safe_dump(overrides.group_overrides(1, _SECRET)))
        values = CHECKOUT / "helm" / "regions" / f"{region.name}.yaml"
        began = time.monotonic()
        await region.helm("install", RELEASE, str(CHART), f"--values={values}", f"--values={path}")
        await self._until(lambda: len(self._leaders()) == 1)
        self.figures.first_group = _since(began)
        began = time.monotonic()
        await region.upgrade(CHART, RELEASE, "--set", f"replicas={NUM_GROUPS}")
        await self._until(lambda: len(self._leaders()) == NUM_GROUPS)
        self.figures.second_group = _since(began)
        pids = [pid for one in self._pods() for first in one.pids for pid in descendants(first)]
        self.figures.server_bytes = memory_bytes(pids)

    def _misplaced(self) -> list[str]:
        """Groups whose hosts are not the machines of one slice, or share one with another group."""
        pools = [{_pool(one) for one in self._pods(group)} for group in range(NUM_GROUPS)]
        wrong = [
            f"group {group} has {len(self._pods(group))} pods in {len(pools[group])} slices"
            for group in range(NUM_GROUPS)
            if (len(self._pods(group)), len(pools[group])) != (NUM_HOSTS, 1)
        ]
        shared = set.intersection(*pools)
        return [*wrong, *(f"both groups are in {pool}" for pool in sorted(shared))]

    async def _differing(self) -> list[str]:
        """Both groups must give the same tokens for the same prompt."""
        texts = {await _ask(address, _NUM_TOKENS) for address in self._leaders().values()}
        return [] if len(texts) == 1 else [f"the groups answer {len(texts)} different texts"]

    async def _change_version(self) -> list[str]:
        """In place, in both groups, and back. No pod may end for it."""
        before, began = {one.uid for one in self._pods()}, time.monotonic()
        for version in (NEW_VERSION, VERSION):
            await self._region.upgrade(CHART, RELEASE, "--set-string", f"model.version={version}")
            for address in self._leaders().values():
                async with asyncio.timeout(SETTLE_SECONDS):
                    while await _version(address) != version:
                        await asyncio.sleep(_ASK_SECONDS)
            self.figures.version = self.figures.version or _since(began)
        after = {one.uid for one in self._pods()}
        return [] if before == after else ["a pod ended for a change of version in place"]

    async def _lose_host(self, lose: Callable[[PodWorker], Awaitable[None]]) -> float:
        """Seconds until group 0, which loses its last host, is whole again. Each of its pods must
        be another then, and group 1 must keep its own.
        """
        kept, gone = ({one.uid for one in self._pods(group)} for group in (1, 0))
        asking = asyncio.create_task(self._keep_asking(self._leaders()[1]))
        try:
            [last] = [one for one in self._pods(0) if _label(one, _INDEX) == str(NUM_HOSTS - 1)]
            began = time.monotonic()
            await lose(last)
            await self._until(lambda: self._is_new(gone))
        finally:
            asking.cancel()
        if kept != {one.uid for one in self._pods(1)}:
            raise ValueError("a group ended because another one lost a host")
        return _since(began)

    def _is_new(self, gone: set[str]) -> bool:
        new = {one.uid for one in self._pods(0)}
        return not new & gone and len(new) == NUM_HOSTS and len(self._leaders()) == NUM_GROUPS

    async def _delete(self, host: PodWorker) -> None:
        await self._region.kubectl("delete", "pod", host.name, "--wait=false")

    async def _kill(self, host: PodWorker) -> None:
        """The kubelet starts its container again; the controller starts the whole group again."""
        for pid in host.pids:
            os.kill(pid, signal.SIGKILL)

    async def _keep_asking(self, address: str) -> None:
        while True:
            try:
                await _ask(address, 1)
                self.figures.answered += 1
            except httpx.HTTPError:
                self.figures.failed += 1
            await asyncio.sleep(_ASK_SECONDS)

    async def _uninstall(self) -> list[str]:
        began = time.monotonic()
        await self._region.helm("uninstall", RELEASE)
        await self._until(lambda: not self._region.workers)
        self.figures.uninstalled = _since(began)
        kinds = "leaderworkersets,statefulsets,services,networkpolicies,resourceclaims"
        left = await self._region.kubectl("get", kinds, "--output=name", "--ignore-not-found")
        return [f"{one} is left" for one in left.split()]

    def _pods(self, group: int | None = None) -> list[PodWorker]:
        """The hosts of a group, or of all of them."""
        mine = [one for one in self._region.workers if one.component == "server"]
        return [one for one in mine if group is None or _label(one, _GROUP) == str(group)]

    def _leaders(self) -> dict[int, str]:
        """The addresses of the ready leaders, by the index of their group."""
        ready = self._region.endpoints.ready(NAMESPACE, RELEASE)
        return {
            int(_label(one, _GROUP)): one.address for one in self._pods() if one.address in ready
        }

    async def _until(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SETTLE_SECONDS
        while not is_so():
            if time.monotonic() > deadline:
                logs = "\n".join(f"{one.name}: {one.log()[-1500:]}" for one in self._pods())
                raise TimeoutError(f"the groups did not settle:\n{logs}")
            await asyncio.sleep(_ASK_SECONDS)


def machines(region: str) -> Iterator[Machine]:
    """The machines of each slice, which are a node pool, and one machine for other pods."""
    for index in range(NUM_GROUPS * NUM_HOSTS):
        pool, host = divmod(index, NUM_HOSTS)
        yield Machine(
            name=f"{region}-slice-{pool}-{host}",
            region=region,
            pool=f"slice-{pool}",
            address=f"10.1.{index + 1}.1",
            slice=overrides.GROUP_SLICE,
        )
    address = f"10.1.{NUM_GROUPS * NUM_HOSTS + 1}.1"
    yield Machine(name=f"{region}-default-0", region=region, pool="default", address=address)


def _pool(pod: PodWorker) -> str:
    """Of the pod's node, whose name ends in its host's index."""
    return str(pod.pod["spec"]["nodeName"]).rpartition("-")[0]


def _label(pod: PodWorker, name: str) -> str:
    return str(pod.pod["metadata"]["labels"].get(name, ""))


async def _ask(address: str, num_tokens: int) -> str:
    """The text of a greedy completion. httpx.HTTPError if the server gives none."""
    return str((await _complete(address, num_tokens))["choices"][0]["text"])


async def _version(address: str) -> str:
    return str((await _complete(address, 1))["model_version"])


async def _complete(address: str, num_tokens: int) -> dict[str, Any]:
    body = {"prompt": "def main(", "max_tokens": num_tokens, "temperature": 0}
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        answer = await client.post(f"http://{address}:8000/v1/completions", json=body)
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


def _since(began: float) -> float:
    return round(time.monotonic() - began, 1)
