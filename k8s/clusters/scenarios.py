"""What is done to the clusters under load, and what each scenario promises.

Each acts as an operator or as a failing machine would: by kubectl, by Helm, or by SIGKILL.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from k8s.clusters.kubelet.pod import PodWorker
from k8s.clusters.lab import CHART, NEW_VERSION, NUM_TPU_NODES, RELEASE, VERSION, Clusters
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
    """Another image, then the former one again. One name of the image is as good as another."""
    began, region = time.monotonic(), clusters.primary
    await region.upgrade(CHART, RELEASE, "--set-string=image.tag=next")
    await _until_ready(region, clusters.num_replicas)
    await region.helm("rollback", RELEASE)
    await _until_ready(region, clusters.num_replicas)
    return began


async def _remove_region(clusters: Clusters, _: LoadGenerator) -> float:
    """Its pods end as pods of a rollout do; the other region has all traffic meanwhile."""
    began, region = time.monotonic(), clusters.primary
    await region.helm("uninstall", RELEASE)
    while region.workers:
        await asyncio.sleep(0.2)
    await clusters.install_server(region)
    await _until_ready(region, clusters.num_replicas)
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


async def _kill_picker(clusters: Clusters, _: LoadGenerator) -> float:
    """All pickers of the pool at once: the gateway chooses by itself until a new one leads."""
    pickers = clusters.pickers(clusters.primary)
    gone = _pids(pickers)
    for pid in gone:
        os.kill(pid, signal.SIGKILL)
    ended = await _when_gone(gone)
    await asyncio.sleep(PLANE_DOWN_SECONDS / 2)
    await clusters.until_picked()
    return ended


type Breaking = Callable[[Clusters, LoadGenerator], Awaitable[float]]


def _kept(name: str, break_it: Breaking, description: str) -> Scenario[Clusters]:
    """Nothing fails, whichever region answers. It promises no time: what happens takes minutes, and
    the first answer after its beginning says only how often requests are sent.
    """
    return Scenario(
        name=name, description=description, break_it=break_it, first_answer="any region"
    )


def _failed_over(
    name: str, break_it: Breaking, description: str, seconds: float
) -> Scenario[Clusters]:
    """The other region answers at once."""
    return Scenario(
        name=name,
        description=description,
        break_it=break_it,
        within=lambda _: AT_ONCE_SECONDS,
        seconds=seconds,
    )


SCENARIOS = (
    _failed_over(
        "delete", _delete, "the primary region's pods are deleted without a grace period", 20.0
    ),
    _kept(
        "upgrade",
        _upgrade,
        "helm upgrade of the model's version in both regions, in place, and rollback",
    ),
    _kept(
        "plane",
        _lose_control_plane,
        "the primary region's control plane is stopped, and started again",
    ),
    _kept("crash", _crash, "kill -9 of one of two servers; the kubelet starts it again"),
    _kept("drain", _drain, "kubectl drain of each node of the primary region that runs a server"),
    _failed_over(
        "nodes", _lose_nodes, "every TPU machine of the primary region is gone at once", 30.0
    ),
    _kept("rollout", _roll_out, "helm upgrade of the primary region's image, and rollback"),
    _kept(
        "scale",
        _scale,
        f"the primary region is scaled to 1, to {NUM_TPU_NODES} and to 1 again",
    ),
    _kept("region", _remove_region, "helm uninstall of the primary region's release, and install"),
)
# Its load goes by the picker. It runs only where the lab has one.
# Envoy answers 500 to a request whose body the picker had begun to read when it died.
PICKER = Scenario(
    name="picker",
    description="kill -9 of the primary region's pickers; the kubelet starts them again",
    break_it=_kill_picker,
    first_answer="any region",
    loses_in_flight=True,
)
SHORT = ("delete", "upgrade")
