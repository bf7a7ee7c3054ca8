"""One container's life: started, probed, ended, and started again after a while.

The pod's worker decides when the container may begin and when it must end.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from k8s.clusters.kubelet.backoff import Backoff
from k8s.clusters.kubelet.environment import MissingReferenceError, command_line, environment
from k8s.clusters.kubelet.images import Image, find
from k8s.clusters.kubelet.node import Node
from k8s.clusters.kubelet.probes import Verdict, ask
from k8s.clusters.kubelet.rootfs import Mount
from k8s.clusters.kubelet.runner import Command, Running, Sandbox, start
from k8s.clusters.kubelet.status import ContainerState, now, running_since, terminated, waiting
from k8s.clusters.kubelet.volumes import folder_of

type Object = dict[str, Any]
_RETRY_SECONDS = 1.0


class ContainerLife:
    """`changed` is called whenever `state` is another."""

    def __init__(
        self,
        node: Node,
        pod: Object,
        container: Object,
        state: ContainerState,
        sandbox: Sandbox,
        folder: Path,
        changed: Callable[[], None],
    ) -> None:
        self._node, self._pod, self._container = node, pod, container
        self._state, self._sandbox, self._folder = state, sandbox, folder
        self._changed = changed
        self._running: Running | None = None
        self._since = ""
        self._must_end = False

    @property
    def pid(self) -> int:
        return self._running.pid if self._running is not None else 0

    @property
    def log(self) -> Path:
        return self._folder / f"{self._state.name}.log"

    async def run(self) -> None:
        """Run it as often as the pod's restart policy says."""
        backoff = Backoff()
        policy = self._pod["spec"].get("restartPolicy", "Always")
        while True:
            began = time.monotonic()
            code = await self.run_once()
            if self._must_end or policy == "Never" or (policy == "OnFailure" and code == 0):
                return
            delay = backoff.delay(time.monotonic() - began)
            self._state.last = self._state.state
            if delay:
                self._set(waiting("CrashLoopBackOff", f"back-off {delay:.0f}s"))
                await asyncio.sleep(delay)
            self._state.num_restarts += 1

    async def run_once(self) -> int:
        """Start it, probe it and wait for its end."""
        command = await self._command()
        root = self._folder / "roots" / self._state.name
        starting = asyncio.create_task(start(self._sandbox, command, root, self.log))
        starting.add_done_callback(self._note_start)
        # A pod may have to end meanwhile. Then the process that is just starting must be known.
        await asyncio.shield(starting)
        self._since = now()
        self._state.is_started = "startupProbe" not in self._container
        self._set(running_since(self._since))
        meanwhile = [asyncio.create_task(self._probe()), asyncio.create_task(self._follow_names())]
        try:
            code = await starting.result().wait()
        finally:
            for task in meanwhile:
                task.cancel()
        self._note_end(code)
        return code

    def _note_start(self, starting: asyncio.Task[Running]) -> None:
        self._running = starting.result()
        if self._must_end:
            self._running.signal(signal.SIGKILL)

    async def end(self, grace: float) -> None:
        """SIGTERM, and SIGKILL after the grace period. Readiness is probed until the end."""
        self._must_end = True
        running = self._running
        if running is None or self._state.exit_code is not None:
            return
        probing = asyncio.create_task(self._probe_one("readinessProbe", self._take_readiness))
        running.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace):
                code = await running.wait()
        except TimeoutError:
            running.signal(signal.SIGKILL)
            code = await running.wait()
        finally:
            probing.cancel()
        self._note_end(code)

    def kill(self) -> None:
        self._must_end = True
        if self._running is not None:
            self._running.signal(signal.SIGKILL)

    def _note_end(self, code: int) -> None:
        self._state.is_ready = self._state.is_started = False
        self._set(terminated(code, self._since, now()))

    def _set(self, state: Object) -> None:
        self._state.state = state
        self._changed()

    async def _command(self) -> Command:
        """Waits while there is no image or something that the variables refer to."""
        while True:
            image = find(self._node.images, self._container["image"])
            if image is None:
                words = "no program of this machine stands for this image"
                self._set(waiting("ErrImagePull", words))
            else:
                try:
                    return self._command_of(image)
                except MissingReferenceError as missing:
                    self._set(waiting("CreateContainerConfigError", f"no {missing}"))
            await asyncio.sleep(_RETRY_SECONDS)

    def _command_of(self, image: Image) -> Command:
        contents = self._node.contents.of(self._pod["metadata"]["namespace"])
        asked = environment(self._pod, self._container, contents)
        kept = {name: value for name, value in asked.items() if not name.startswith(image.without)}
        variables = {
            "HOSTNAME": self._hostname,
            "KUBERNETES_SERVICE_HOST": self._node.service_host,
            "KUBERNETES_SERVICE_PORT": "6443",
            **image.environment,
            **kept,
        }
        return Command(
            command=command_line(self._container, image.entrypoint, variables),
            environment=variables,
            mounts=self._mounts(image),
            folder=self._container.get("workingDir", "/"),
            hostname=self._hostname,
            read_only=bool(
                self._container.get("securityContext", {}).get("readOnlyRootFilesystem")
            ),
        )

    def _mounts(self, image: Image) -> Mapping[str, Mount]:
        """The image's folders, the pod's volumes and its hosts file."""
        found = {place: Mount(str(p), place, read_only=True) for place, p in image.mounts.items()}
        volumes = {one["name"]: one for one in self._pod["spec"].get("volumes", ())}
        for asked in self._container.get("volumeMounts", ()):
            volume = volumes[asked["name"]]
            source = folder_of(volume, self._folder, self._node.buckets)
            source /= asked.get("subPath", "")
            place = asked["mountPath"].rstrip("/")
            found[place] = Mount(str(source), place, read_only=asked.get("readOnly", False))
        for place, path in image.kept.items():
            path.mkdir(parents=True, exist_ok=True)
            found[place] = Mount(str(path), place, read_only=False)
        self._hosts.write_text(self._names())
        found["/etc/hosts"] = Mount(str(self._hosts), "/etc/hosts", read_only=True)
        return found

    @property
    def _hosts(self) -> Path:
        """Names of Services stand in the hosts file, because the lab has no DNS and no proxy."""
        return self._folder / f"{self._state.name}.hosts"

    def _names(self) -> str:
        """A pod's own name comes first: a Service may have the name of a pod."""
        own = {"localhost": "127.0.0.1", self._hostname: self._address}
        names = {**self._node.names(self._pod["metadata"]["namespace"]), **own}
        return "".join(f"{address}\t{name}\n" for name, address in names.items())

    async def _follow_names(self) -> None:
        """Keep the hosts file as new as DNS would be. It is one file for good: it is mounted."""
        written = ""
        while True:
            if (names := self._names()) != written:
                with self._hosts.open("r+") as hosts:
                    hosts.write(names)
                    hosts.truncate()
                written = names
            await asyncio.sleep(_RETRY_SECONDS)

    @property
    def _hostname(self) -> str:
        return str(self._pod["spec"].get("hostname") or self._pod["metadata"]["name"])

    @property
    def _address(self) -> str:
        return str(self._pod["status"]["podIP"])

    async def _probe(self) -> None:
        if "startupProbe" in self._container:
            started = asyncio.Event()
            task = asyncio.create_task(
                self._probe_one("startupProbe", lambda good: self._take_start(good, started))
            )
            try:
                await started.wait()
            finally:
                task.cancel()
        if "readinessProbe" not in self._container:
            self._take_readiness(True)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._probe_one("readinessProbe", self._take_readiness))
            group.create_task(self._probe_one("livenessProbe", self._take_liveness))

    async def _probe_one(self, name: str, take: Callable[[bool], None]) -> None:
        """Ask again and again; `take` gets each new verdict."""
        probe = self._container.get(name)
        if probe is None:
            return
        verdict = Verdict.of(probe)
        await asyncio.sleep(probe.get("initialDelaySeconds", 0))
        while True:
            began = time.monotonic()
            if verdict.take(await ask(probe, self._container, self._address)):
                assert verdict.is_good is not None
                take(verdict.is_good)
            rest = probe.get("periodSeconds", 10) - (time.monotonic() - began)
            await asyncio.sleep(max(0.0, rest))

    def _take_start(self, is_good: bool, started: asyncio.Event) -> None:
        if not is_good:
            self._restart("startup")
            return
        self._state.is_started = True
        started.set()
        self._changed()

    def _take_readiness(self, is_good: bool) -> None:
        self._state.is_ready = is_good
        self._changed()

    def _take_liveness(self, is_good: bool) -> None:
        if not is_good:
            self._restart("liveness")

    def _restart(self, probe: str) -> None:
        """End the container as a kubelet does when a probe failed too often; `run` starts it
        again.
        """
        with self.log.open("a") as log:
            log.write(f"kubelet: the {probe} probe failed too often\n")
        running = self._running
        assert running is not None
        running.signal(signal.SIGTERM)
        grace = self._pod["spec"].get("terminationGracePeriodSeconds", 30)
        loop = asyncio.get_running_loop()
        loop.call_later(grace, lambda: running.signal(signal.SIGKILL))
