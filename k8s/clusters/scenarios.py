"""What is done to the clusters under load, and what each scenario promises.

Each acts as an operator or as a failing machine would: by kubectl, by Helm, or by SIGKILL.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from k8s.clusters.kubelet.pod import PodWorker
from k8s.clusters.lab import NEW_VERSION, NUM_TPU_NODES, RELEASE, VERSION, Clusters
from k8s.clusters.region import Region
from k8s.lab.load import LoadGenerator
from k8s.lab.scenarios import AT_ONCE_SECONDS, Scenario

SERVERS = "app.kubernetes.io/component=server"
PLANE_DOWN_SECONDS = 20.0
_DEPLOYMENT = f"deployment/{RELEASE}"
_PATIENCE = "--timeout=420s"


async def _delete(clusters: Clusters, _: LoadGenerator) -> float:
    """The pods go at once, without the grace period."""
    gone = _pids(clusters.servers(clusters.primary))
    await clusters.primary.kubectl(
        "delete", "pod", "--force", "--grace-period=0", "--wait=false", f"--selector={SERVERS}"
    )
    return await _when_gone(gone)


async def _crash(clusters: Clusters, _: LoadGenerator) -> float:
    """The kubelet starts the container again, in its pod."""
    first = clusters.servers(clusters.primary)[0]
    gone = _pids([first])
    for pid in first.pids:
        os.kill(pid, signal.SIGKILL)
    ended = await _when_gone(gone)
    await _until_ready(clusters.primary, clusters.num_replicas)
    if first.num_restarts != 1:
        raise ValueError(f"the kubelet started the container {first.num_restarts} times again")
    return ended


async def _upgrade(clusters: Clusters, _: LoadGenerator) -> float:
    """Both regions one after the other, and back by Helm. No pod may end for it."""
    before = {pid for region in clusters.regions.values() for pid in _firsts(clusters, region)}
    began = time.monotonic()
    for region in clusters.regions.values():
        await clusters.change_version(region, NEW_VERSION)
    await asyncio.sleep(3)
    for region in clusters.regions.values():
        await region.helm("rollback", RELEASE)
        await clusters.until_all_serve(region, VERSION)
    after = {pid for region in clusters.regions.values() for pid in _firsts(clusters, region)}
    if before != after:
        raise ValueError("a pod ended for a change of version in place")
    return began


async def _roll_out(clusters: Clusters, _: LoadGenerator) -> float:
    began = time.monotonic()
    await clusters.primary.kubectl("rollout", "restart", _DEPLOYMENT)
    await clusters.primary.kubectl("rollout", "status", _DEPLOYMENT, _PATIENCE)
    return began


async def _drain(clusters: Clusters, _: LoadGenerator) -> float:
    """Every node that runs a server, one after the other; the budget lets one pod go at a time."""
    began = time.monotonic()
    nodes = {str(one.pod["spec"]["nodeName"]) for one in clusters.servers(clusters.primary)}
    for node in sorted(nodes):
        await clusters.primary.kubectl(
            "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", _PATIENCE
        )
        await clusters.primary.kubectl("uncordon", node)
    await _until_ready(clusters.primary, clusters.num_replicas)
    return began


async def _lose_nodes(clusters: Clusters, _: LoadGenerator) -> float:
    """Every TPU machine of the region, at once, and their Nodes."""
    gone = _pids(clusters.servers(clusters.primary))
    names = [name for name in clusters.primary.kubelets if "-tpu-" in name]
    await asyncio.gather(*(clusters.primary.lose_node(name) for name in names))
    return await _when_gone(gone)


async def _lose_control_plane(clusters: Clusters, _: LoadGenerator) -> float:
    """Stopped for a while, then started again: the servers must not notice."""
    before = _firsts(clusters, clusters.primary)
    clusters.primary.plane.stop()
    began = time.monotonic()
    await asyncio.sleep(PLANE_DOWN_SECONDS)
    await clusters.primary.plane.start_again()
    await asyncio.sleep(PLANE_DOWN_SECONDS / 2)
    if _firsts(clusters, clusters.primary) != before:
        raise ValueError("a server ended because its control plane was away")
    return began


async def _scale(clusters: Clusters, _: LoadGenerator) -> float:
    """To one replica, to as many as there are nodes, and to one again."""
    began = time.monotonic()
    for count in (1, NUM_TPU_NODES, 1):
        await clusters.scale(clusters.primary, count)
        await _until_ready(clusters.primary, count)
    return began


async def _until_ready(region: Region, count: int) -> None:
    """Wait until exactly this many servers are ready and no other is left."""
    await region.kubectl("rollout", "status", _DEPLOYMENT, _PATIENCE)
    while len([one for one in region.workers if one.component == "server"]) != count:
        await asyncio.sleep(0.2)


def _pids(workers: Iterable[PodWorker]) -> list[int]:
    return [pid for worker in workers for pid in worker.pids]


def _firsts(clusters: Clusters, region: Region) -> set[int]:
    return set(_pids(clusters.servers(region)))


async def _when_gone(pids: list[int]) -> float:
    """When the last of these processes had ended."""
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        await asyncio.sleep(0.001)
    return time.monotonic()


SCENARIOS = (
    Scenario(
        name="delete",
        description="the primary region's pods are deleted without a grace period",
        break_it=_delete,
        within=lambda _: AT_ONCE_SECONDS,
        seconds=20.0,
    ),
    Scenario(
        name="upgrade",
        description="helm upgrade of the model's version in both regions, in place, and rollback",
        break_it=_upgrade,
        first_answer="any region",
        within=lambda _: AT_ONCE_SECONDS,
    ),
    Scenario(
        name="plane",
        description="the primary region's control plane is stopped, and started again",
        break_it=_lose_control_plane,
        first_answer="any region",
        within=lambda _: AT_ONCE_SECONDS,
    ),
    Scenario(
        name="crash",
        description="kill -9 of one of two servers; the kubelet starts it again",
        break_it=_crash,
        first_answer="any region",
        within=lambda _: AT_ONCE_SECONDS,
    ),
    Scenario(
        name="drain",
        description="kubectl drain of each node of the primary region that runs a server",
        break_it=_drain,
        first_answer="any region",
        within=lambda _: AT_ONCE_SECONDS,
    ),
    Scenario(
        name="nodes",
        description="every TPU machine of the primary region is gone at once",
        break_it=_lose_nodes,
        within=lambda _: AT_ONCE_SECONDS,
        seconds=30.0,
    ),
    Scenario(
        name="rollout",
        description="kubectl rollout restart of the primary region's servers",
        break_it=_roll_out,
        first_answer="any region",
        within=lambda _: AT_ONCE_SECONDS,
    ),
    Scenario(
        name="scale",
        description=f"the primary region is scaled to 1, to {NUM_TPU_NODES} and to 1 again",
        break_it=_scale,
        first_answer="any region",
        within=lambda _: AT_ONCE_SECONDS,
    ),
)
SHORT = ("delete", "upgrade")
