"""One node's kubelet: registers the node, says that it lives, and has a worker for each pod.

Acts as the node's own user, with what an API server allows a node.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from typing import Any

import httpx

from k8s.clusters.host.api import CONFLICT, ApiError
from k8s.clusters.host.tasks import in_background
from k8s.clusters.kubelet.environment import references
from k8s.clusters.kubelet.node import Node, Reference
from k8s.clusters.kubelet.pod import PodWorker

type Object = dict[str, Any]
LEASE_SECONDS, HEARTBEAT_SECONDS = 40, 10.0
_ENDED = ("Succeeded", "Failed")


class Kubelet:
    """The caller starts it, and stops it or lets it vanish."""

    def __init__(self, node: Node, object_: Object) -> None:
        self.node = node
        self.workers: dict[str, PodWorker] = {}
        self._object = object_
        self._tasks: list[asyncio.Task[None]] = []
        node.contents.on_change = self._on_content

    async def start(self) -> None:
        await self._register()
        self._tasks = [
            in_background(self._beat()),
            in_background(self._follow_pods()),
        ]

    async def vanish(self) -> None:
        """As if the machine had lost its power: no process is left, and nothing is reported."""
        for task in self._tasks:
            task.cancel()
        self.node.contents.stop()
        await asyncio.gather(*(worker.abandon() for worker in self.workers.values()))
        self.workers.clear()
        await self.node.api.aclose()

    def _on_content(self, reference: Reference) -> None:
        """A ConfigMap or Secret is another now: the pods that refer to it get it."""
        namespace, kind, name = reference
        for worker in self.workers.values():
            if worker.namespace == namespace and (kind, name) in references(worker.pod):
                worker.refresh()

    async def _register(self) -> None:
        api = self.node.api
        try:
            await api.create("/api/v1/nodes", self._object)
        except ApiError as error:
            if error.status != CONFLICT:
                raise
        await self._say_ready()

    async def _say_ready(self) -> None:
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "KubeletReady",
            "lastHeartbeatTime": _now(),
        }
        status = self._object["status"] | {"conditions": [ready]}
        await self.node.api.patch(f"/api/v1/nodes/{self.node.name}/status", {"status": status})

    async def _beat(self) -> None:
        """Renew the node's lease, as kubelets do every ten seconds."""
        while True:
            with contextlib.suppress(ApiError, httpx.HTTPError):
                await self._renew()
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _renew(self) -> None:
        folder = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        name = self.node.name
        lease = await self.node.api.find(f"{folder}/{name}")
        spec = {
            "holderIdentity": name,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": _now(fraction=True),
        }
        if lease is None:
            kind = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
            await self.node.api.create(folder, kind | {"metadata": {"name": name}, "spec": spec})
            return
        lease["spec"] |= spec
        await self.node.api.replace(f"{folder}/{name}", lease)

    async def _follow_pods(self) -> None:
        query = {"fieldSelector": f"spec.nodeName={self.node.name}"}
        async for event in self.node.api.watch("/api/v1/pods", **query):
            await self._take(event.kind, event.thing)

    async def _take(self, kind: str, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        worker = self.workers.get(uid)
        if kind == "DELETED":
            if worker is not None:
                del self.workers[uid]
                await worker.abandon()
            return
        if worker is None:
            if pod.get("status", {}).get("phase") in _ENDED:
                return
            worker = self.workers[uid] = PodWorker(self.node, pod)
        worker.update(pod)


def _now(*, fraction: bool = False) -> str:
    form = "%Y-%m-%dT%H:%M:%S.%fZ" if fraction else "%Y-%m-%dT%H:%M:%SZ"
    return datetime.datetime.now(datetime.UTC).strftime(form)
