"""A region of the lab: its control plane, its nodes with their kubelets, Helm and kubectl.

Knows neither the gateway nor the scenarios.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from k8s.clusters.control_plane.control_plane import ControlPlane
from k8s.clusters.control_plane.custom_resources import open_definition, open_kinds, published
from k8s.clusters.control_plane.policies import GKE, LABEL, policies
from k8s.clusters.control_plane.programs import Programs
from k8s.clusters.gateway.endpoints import Endpoints
from k8s.clusters.kubelet.agent import Kubelet
from k8s.clusters.kubelet.images import Image
from k8s.clusters.kubelet.node import Addresses, Contents, Node
from k8s.clusters.kubelet.pod import PodWorker
from k8s.clusters.machines import Machine, device_classes, node, resource_slices

type Object = dict[str, Any]

NAMESPACE = "antipode"
# For routes of gateways that are not GKE's.
OTHER_NAMESPACE = "elsewhere"
_SECURITY = ("enforce", "warn")
_DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_ADMISSION = "/apis/admissionregistration.k8s.io/v1"
_RESOURCES = "/apis/resource.k8s.io/v1"


class Region:
    """`number` is 1 or more and gives the region its addresses: 10.<number>.0.0/16."""

    def __init__(
        self,
        name: str,
        number: int,
        programs: Programs,
        folder: Path,
        images: Mapping[str, Image],
    ) -> None:
        self.name, self.folder = name, folder / name
        self.gateway = gateway(number)
        self.plane = ControlPlane(
            name, self.gateway, f"10.{100 + number}.0.0/16", programs, self.folder / "control-plane"
        )
        self.kubelets: dict[str, Kubelet] = {}
        self._number, self._programs, self._images = number, programs, images
        self._interfaces = (f"v{number}-{index}" for index in itertools.count())
        self._machines: dict[str, Machine] = {}

    async def start(self, machines: Iterable[Machine], definitions: Path | None) -> float:
        """Start control plane and nodes, with the namespace; returns seconds to the API server."""
        self._machines = {machine.name: machine for machine in machines}
        seconds = await self.plane.start(self._machines)
        self.api = self.plane.api()
        self.endpoints = Endpoints(self.api)
        await self._define_kinds(definitions)
        for one in device_classes():
            await self.apply(f"{_RESOURCES}/deviceclasses", one)
        for plural, one in policies():
            await self.apply(f"{_ADMISSION}/{plural}", one)
        await self.make_namespace(NAMESPACE, GKE)
        await self.make_namespace(OTHER_NAMESPACE, "envoy")
        for machine in self._machines.values():
            await self.add_node(machine)
        return seconds

    async def add_node(self, machine: Machine) -> None:
        for one in resource_slices(machine):
            await self.apply(f"{_RESOURCES}/resourceslices", one)
        api = self.plane.api(machine.name)
        place = list(self._machines).index(machine.name) + 1
        kubelet = Kubelet(
            Node(
                name=machine.name,
                api=api,
                address=machine.address,
                gateway=self.gateway,
                addresses=Addresses(f"10.{self._number}.{place}"),
                folder=self.folder / "pods",
                buckets=self.folder / "buckets",
                images=self._images,
                service_host=self.gateway,
                names=self.endpoints.names,
                interfaces=lambda: next(self._interfaces),
                contents=Contents(api),
            ),
            node(machine),
        )
        self.kubelets[machine.name] = kubelet
        await kubelet.start()

    async def lose_node(self, name: str) -> None:
        """The machine is gone, and with it its node, as when a node pool is resized."""
        await self.kubelets.pop(name).vanish()
        await self.api.delete(f"/api/v1/nodes/{name}")
        for one in resource_slices(self._machines[name]):
            await self.api.delete(f"{_RESOURCES}/resourceslices/{one['metadata']['name']}")

    async def restore_nodes(self) -> None:
        for name in self._machines.keys() - self.kubelets.keys():
            await self.add_node(self._machines[name])

    async def make_namespace(self, name: str, gateway_of: str) -> None:
        """A namespace for pods as Pod Security restricts them."""
        labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in _SECURITY}
        await self.make_plain_namespace(name, {LABEL: gateway_of, **labels})

    async def make_plain_namespace(
        self, name: str, labels: Mapping[str, str] | None = None
    ) -> None:
        metadata = {"name": name, "labels": {**(labels or {})}}
        await self.apply(
            "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
        )
        # Without its service account, which the controller manager makes, no pod is admitted.
        while await self.api.find(f"/api/v1/namespaces/{name}/serviceaccounts/default") is None:
            await asyncio.sleep(0.1)

    async def apply(self, folder: str, thing: Object) -> None:
        await self.api.apply(f"{folder}/{thing['metadata']['name']}", thing)

    async def _define_kinds(self, folder: Path | None) -> None:
        definitions = published(folder)
        definitions += [open_definition(kind) for kind in open_kinds(definitions)]
        for one in definitions:
            await self.apply(_DEFINITIONS, one)
        for one in definitions:
            path = f"{_DEFINITIONS}/{one['metadata']['name']}"
            while not _is_established(await self.api.get(path)):
                await asyncio.sleep(0.05)

    @property
    def workers(self) -> list[PodWorker]:
        """Every pod that a kubelet of the region runs."""
        return [worker for one in self.kubelets.values() for worker in one.workers.values()]

    async def helm(self, *arguments: str, namespace: str = NAMESPACE) -> str:
        return await self._command("helm", *arguments, f"--namespace={namespace}")

    async def upgrade(self, chart: Path, release: str, *values: str) -> str:
        """As docs/deploy.md changes a release: its own values, with these changed."""
        return await self.helm("upgrade", release, str(chart), "--reset-then-reuse-values", *values)

    async def kubectl(self, *arguments: str, namespace: str = NAMESPACE) -> str:
        return await self._command("kubectl", *arguments, f"--namespace={namespace}")

    async def _command(self, program: str, *arguments: str) -> str:
        """What the program prints. RuntimeError with what it says if it fails."""
        process = await asyncio.create_subprocess_exec(
            self._programs[program],
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder),
                "KUBECONFIG": str(self.plane.kubeconfig),
            },
        )
        printed, errors = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"{program} {' '.join(arguments)}:\n{errors.decode()[-2000:]}")
        return printed.decode() + errors.decode()

    async def stop(self) -> None:
        for kubelet in self.kubelets.values():
            await kubelet.vanish()
        if hasattr(self, "endpoints"):
            self.endpoints.stop()
            await self.api.aclose()
        self.plane.stop()


def gateway(number: int) -> str:
    """The address of a region's bridge, where its control plane listens too."""
    return f"10.{number}.0.1"


def _is_established(definition: Object) -> bool:
    found = definition.get("status", {}).get("conditions", ())
    return any(one["type"] == "Established" and one["status"] == "True" for one in found)
