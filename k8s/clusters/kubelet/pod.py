"""One pod's life on its node: volumes, containers, probes, restarts, the end, and its status.

Everything that a pod does is a task of its worker. Only `_report` writes to the API server, and
tries again where the API server is away, so that a pod lives on without a control plane.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from k8s.clusters.host.api import NOT_FOUND, ApiError
from k8s.clusters.host.tasks import in_background
from k8s.clusters.kubelet.container_life import ContainerLife
from k8s.clusters.kubelet.environment import MissingReferenceError, references
from k8s.clusters.kubelet.node import Node
from k8s.clusters.kubelet.runner import Sandbox
from k8s.clusters.kubelet.status import (
    ContainerState,
    ended_phase,
    pod_status,
    status_patch,
    waiting,
)
from k8s.clusters.kubelet.volumes import (
    files_of,
    folder_of,
    is_of_files,
    token_requests,
    write_files,
)

type Object = dict[str, Any]
_RETRY_SECONDS = 0.5
# What only the kubelet writes of a pod's status: what comes back may be older.
_OWN = ("conditions", "startTime", "podIP", "podIPs", "hostIP", "hostIPs")


class PodWorker:
    """Runs a pod from the moment it is bound until its object may go."""

    def __init__(self, node: Node, pod: Object) -> None:
        self.pod = pod
        self._node = node
        metadata = pod["metadata"]
        self.name, self.namespace, self.uid = (
            str(metadata[key]) for key in ("name", "namespace", "uid")
        )
        self.folder = node.folder / self.namespace / f"{self.name}-{self.uid[:8]}"
        self._addresses = {"hostIP": node.address}
        self._init = [_state(one) for one in pod["spec"].get("initContainers", ())]
        self._states = [_state(one) for one in pod["spec"]["containers"]]
        self._lives: list[ContainerLife] = []
        self._is_initialized = False
        self._sandbox: Sandbox | None = None
        self._changed = asyncio.Event()
        self._tokens: dict[tuple[str, int], str] = {}
        self._tasks = [in_background(self._live()), in_background(self._report())]
        self._ending: asyncio.Task[None] | None = None

    @property
    def path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"

    @property
    def pids(self) -> list[int]:
        return [life.pid for life in self._lives if life.pid]

    @property
    def component(self) -> str:
        """The pod's part in its release, as the charts label it."""
        return self._label("app.kubernetes.io/component")

    @property
    def release(self) -> str:
        """The release that the pod belongs to, as the charts label it."""
        return self._label("app.kubernetes.io/instance")

    def _label(self, name: str) -> str:
        return str(self.pod["metadata"].get("labels", {}).get(name, ""))

    @property
    def is_ready(self) -> bool:
        return bool(self._states) and all(state.is_ready for state in self._states)

    @property
    def num_restarts(self) -> int:
        return sum(state.num_restarts for state in self._states)

    def log(self) -> str:
        """The end of what its containers printed."""
        return "\n".join(life.log.read_text(errors="replace")[-3000:] for life in self._lives)

    @property
    def address(self) -> str:
        return self._addresses.get("podIP", "")

    def update(self, pod: Object) -> None:
        """The pod's object as it is now. With a deletion time, the pod begins to end."""
        written = {k: v for k, v in self.pod.get("status", {}).items() if k in _OWN}
        pod["status"] = pod.get("status", {}) | written
        self.pod = pod
        if "deletionTimestamp" in pod["metadata"] and self._ending is None:
            grace = float(pod["metadata"].get("deletionGracePeriodSeconds", 30))
            self._ending = in_background(self._end(grace))

    def refresh(self) -> None:
        """A ConfigMap or Secret changed: bring it into the volumes."""
        with contextlib.suppress(MissingReferenceError):
            self._write_volumes()

    async def abandon(self) -> None:
        """Kill everything at once and report nothing: the pod's object is gone, or its node."""
        for task in [*self._tasks, *([self._ending] if self._ending else [])]:
            task.cancel()
        for life in self._lives:
            life.kill()
        self._clean_up()

    async def _live(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for kind, name in references(self.pod):
            self._node.contents.follow(self.namespace, kind, name)
        await self._prepare()
        for container, state in zip(
            self.pod["spec"].get("initContainers", ()), self._init, strict=True
        ):
            await self._life(container, state).run_once()
        self._is_initialized = True
        lives = [
            self._life(container, state)
            for container, state in zip(self.pod["spec"]["containers"], self._states, strict=True)
        ]
        await asyncio.gather(*(life.run() for life in lives))

    async def _prepare(self) -> None:
        """Volumes, tokens and network; tried again while something that they need is missing."""
        while True:
            try:
                await self._request_tokens()
                self._write_volumes()
                break
            except (MissingReferenceError, ApiError, httpx.HTTPError) as reason:
                for state in self._states:
                    state.state = waiting("ContainerCreating", f"no {reason}")
                self._changed.set()
                await asyncio.sleep(_RETRY_SECONDS)
        self._sandbox = Sandbox()
        address = self._node.addresses.next()
        await self._sandbox.connect(address, self._node.gateway, self._node.interfaces())
        self._addresses["podIP"] = address
        # Containers read their own address from the pod's object.
        self._status()

    async def _request_tokens(self) -> None:
        account = self.pod["spec"].get("serviceAccountName", "default")
        path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{account}/token"
        bound = {"kind": "Pod", "apiVersion": "v1", "name": self.name, "uid": self.uid}
        for audience, seconds in token_requests(self.pod):
            spec: Object = {"expirationSeconds": seconds, "boundObjectRef": bound}
            spec["audiences"] = [audience] if audience else []
            request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}
            answer = await self._node.api.create(path, request | {"spec": spec})
            self._tokens[audience, seconds] = answer["status"]["token"]

    def _write_volumes(self) -> None:
        contents = self._node.contents.of(self.namespace)
        for volume in self.pod["spec"].get("volumes", ()):
            folder = folder_of(volume, self.folder, self._node.buckets)
            if is_of_files(volume):
                write_files(folder, files_of(volume, self.pod, contents, self._tokens))

    def _life(self, container: Object, state: ContainerState) -> ContainerLife:
        assert self._sandbox is not None
        life = ContainerLife(
            self._node, self.pod, container, state, self._sandbox, self.folder, self._changed.set
        )
        self._lives.append(life)
        return life

    async def _end(self, grace: float) -> None:
        """SIGTERM, SIGKILL after the grace period, the last status, and the object's end."""
        self._tasks[0].cancel()
        await asyncio.gather(*(life.end(grace) for life in self._lives))
        self._tasks[1].cancel()
        final = self._status() | {"phase": ended_phase(self._states)}
        await self._until_done(lambda: self._write(final))
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}}
        await self._until_done(lambda: self._node.api.delete(self.path, options))
        self._clean_up()

    async def _report(self) -> None:
        """Write the status whenever it is another."""
        written: Object = {}
        while True:
            found = self._status()
            if found != written:
                await self._until_done(partial(self._write, found))
                written = found
            await self._changed.wait()
            self._changed.clear()

    async def _write(self, found: Object) -> None:
        await self._node.api.patch(f"{self.path}/status", status_patch(found))

    async def _until_done(self, call: Callable[[], Awaitable[None]]) -> None:
        """Try until the API server takes it, or says that there is no such pod."""
        while True:
            try:
                await call()
                return
            except ApiError as error:
                if error.status == NOT_FOUND:
                    return
            except httpx.HTTPError:
                pass
            await asyncio.sleep(_RETRY_SECONDS)

    def _status(self) -> Object:
        found = pod_status(
            self.pod, self._states, self._init, self._addresses, self._is_initialized
        )
        self.pod.setdefault("status", {}).update({k: found[k] for k in _OWN if k in found})
        return found

    def _clean_up(self) -> None:
        if self._sandbox is not None:
            self._sandbox.end()
            self._sandbox = None
        for name in ("volumes", "roots"):
            shutil.rmtree(Path(self.folder) / name, ignore_errors=True)


def _state(container: Object) -> ContainerState:
    return ContainerState(container["name"], container["image"])
