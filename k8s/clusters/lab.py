"""Both regions with their gateway and the charts on them: opened, settled, loaded, closed.

Knows how to bring the regions back to a sound state, and nothing of what scenarios break.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import yaml

from k8s.clusters import overrides
from k8s.clusters.control_plane.programs import Programs
from k8s.clusters.envoy_gateway import EnvoyGateway
from k8s.clusters.gateway.gateway import GRPC_PORT, HTTP_PORT, Gateway
from k8s.clusters.host.processes import descendants, memory_bytes
from k8s.clusters.kubelet.images import CHECKOUT, PICKER, Image, find
from k8s.clusters.kubelet.pod import PodWorker
from k8s.clusters.machines import Machine
from k8s.clusters.region import NAMESPACE, Region
from k8s.lab.chart_numbers import REGIONS, Numbers
from k8s.lab.load import Expected, LoadGenerator, LoadShape, undisturbed
from k8s.lab.proxy import Address

RELEASE, GATEWAY_RELEASE = "antipode", "gateway"
CHART, GATEWAY_CHART = CHECKOUT / "helm" / "antipode", CHECKOUT / "helm" / "antipode-gateway"
VERSION, NEW_VERSION = "1", "2"
NUM_TPU_NODES = 3
# The region whose nodes offer their chips by a driver. The other's have the device plugin.
CHIPS_BY_CLAIM = REGIONS[1]
# Servers start on cores that they share, and may compile first.
SETTLE_SECONDS = 420.0
_GATEWAY_PORTS = {REGIONS[0]: Address(18_000, 19_000), REGIONS[1]: Address(28_000, 29_000)}
_POOL_PORTS = {REGIONS[0]: 18_001, REGIONS[1]: 28_001}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What it took to open the lab, in seconds, and what the control planes take, in bytes."""

    control_planes: float
    installed: float
    ready: float
    control_plane_bytes: int
    server_bytes: int


class Clusters:
    """The primary region first; each has `num_replicas` servers. `figures` is there once the lab
    is open.
    """

    def __init__(
        self, folder: Path, programs: Programs, images: Mapping[str, Image], num_replicas: int
    ) -> None:
        self.folder = folder
        self.num_replicas = num_replicas
        self.programs = programs
        self.regions = {
            name: Region(name, number, programs, folder, images)
            for number, name in enumerate(REGIONS, start=1)
        }
        self.has_pickers = find(images, PICKER) is not None
        # Only where its images are known.
        self.envoy_gateway: EnvoyGateway | None = None
        self.shares: dict[str, float] = {}
        # Seconds until Envoy Gateway had taken the gateway's chart, and its proxy was ready.
        self.routed: float | None = None
        self.numbers = Numbers.from_charts()
        self.expected: Expected = {}

    @property
    def primary(self) -> Region:
        return self.regions[REGIONS[0]]

    async def start(self, definitions: Path | None) -> None:
        """Start both control planes with their nodes."""
        began = time.monotonic()
        for name in self.regions:
            overrides.fill_bucket(name, self.folder / name / "buckets")
        starts = (
            region.start(machines(name, number), definitions)
            for number, (name, region) in enumerate(self.regions.items(), start=1)
        )
        await asyncio.gather(*starts)
        self._control_planes = time.monotonic() - began

    async def install(self) -> None:
        """Install the charts by the commands of docs/deploy.md, and wait for the servers."""
        began = time.monotonic()
        await self._compile_first()
        for region in self.regions.values():
            if region is not self.primary:
                await self.install_server(region)
        chosen = ("--set", f"regions={{{','.join(REGIONS)}}}")
        config = self.regions[REGIONS[1]]
        await config.helm("install", GATEWAY_RELEASE, str(GATEWAY_CHART), *chosen)
        installed = time.monotonic() - began
        self.gateway = Gateway(
            _GATEWAY_PORTS,
            _POOL_PORTS if self.has_pickers else {},
            self._pods,
            self._picker_addresses,
            self.numbers,
            self.folder,
        )
        for region in self.regions.values():
            region.endpoints.on_change = self.gateway.update
        await self.settle()
        self.figures = Figures(
            control_planes=round(self._control_planes, 1),
            installed=round(installed, 1),
            ready=round(time.monotonic() - began, 1),
            control_plane_bytes=memory_bytes(self.control_plane_pids()),
            server_bytes=memory_bytes(self.server_pids()),
        )

    async def _compile_first(self) -> None:
        """One server compiles for all; servers that start at once would all compile the same."""
        await self.install_server(self.primary)
        await self.scale(self.primary, 1)
        patience = f"--timeout={SETTLE_SECONDS:.0f}s"
        await self.primary.kubectl("rollout", "status", f"deployment/{RELEASE}", patience)
        await self.scale(self.primary, self.num_replicas)

    async def install_server(self, region: Region, release: str = RELEASE, *more: str) -> None:
        """Install the server's chart in a region, by its own values and the lab's overrides."""
        path = self.folder / region.name / "overrides.yaml"
        by_claim = region.name == CHIPS_BY_CLAIM
        chosen = overrides.overrides(self.num_replicas, chips_by_claim=by_claim)
        path.write_text(yaml.safe_dump(chosen))
        values = CHECKOUT / "helm" / "regions" / f"{region.name}.yaml"
        files = (f"--values={values}", f"--values={path}")
        await region.helm("install", release, str(CHART), *files, *more)

    async def expect(self, num_tokens: int) -> None:
        """Learn each version's tokens from an idle server of the primary region."""
        found = {}
        for version in (NEW_VERSION, VERSION):
            await self.change_version(self.primary, version)
            first = Address(HTTP_PORT, GRPC_PORT, self.servers(self.primary)[0].address)
            found[version] = await undisturbed(first, num_tokens)
        self.expected = found

    def load(self, shape: LoadShape, *, by_picker: bool = False) -> LoadGenerator:
        """By the primary region's picker, HTTP only goes by it: gRPC has no pool by default."""
        address = self.gateway.addresses[REGIONS[0]]
        if by_picker:
            address = replace(address, http=self.gateway.pools[REGIONS[0]])
        model = overrides.region_values(REGIONS[0])["model"]["name"]
        return LoadGenerator(address, shape, model, self.expected, self.region_of)

    def region_of(self, upstream: str) -> str | None:
        """The region of the pod at `upstream`, an address and a port."""
        network = upstream.split(".")[:2]
        found = (one for one in self.regions.values() if one.gateway.split(".")[:2] == network)
        return next((region.name for region in found), None)

    async def settle(self) -> None:
        """Wait until the gateway uses every replica, and no other pod is left."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while not await self.gateway.is_whole(self.num_replicas * len(self.regions)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the servers did not get ready:\n{self._describe()}")
            await asyncio.sleep(0.5)

    async def restore(self) -> None:
        """Bring back what scenarios break: control planes, nodes, replicas and version."""
        for region in self.regions.values():
            if not region.plane.is_running:
                await region.plane.start_again()
            await region.restore_nodes()
            for node in region.kubelets:
                await region.kubectl("uncordon", node)
            await self.scale(region, self.num_replicas)
        await self.settle()
        for region in self.regions.values():
            await self.change_version(region, VERSION)

    async def scale(self, region: Region, num_replicas: int) -> None:
        await region.kubectl("scale", f"deployment/{RELEASE}", f"--replicas={num_replicas}")

    async def change_version(self, region: Region, version: str) -> None:
        """Upgrade the release to the version, and wait until each of its servers serves it."""
        await region.upgrade(CHART, RELEASE, "--set-string", f"model.version={version}")
        await self.until_all_serve(region, version)

    async def until_all_serve(self, region: Region, version: str) -> None:
        async with asyncio.timeout(SETTLE_SECONDS):
            for worker in self.servers(region):
                while await self._version_of(worker) != version:
                    await asyncio.sleep(0.2)

    async def _version_of(self, worker: PodWorker) -> str:
        url = f"http://{worker.address}:{HTTP_PORT}/v1/completions"
        body = {"prompt": "a", "max_tokens": 1}
        with contextlib.suppress(httpx.HTTPError, KeyError, ValueError):
            async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
                return str((await client.post(url, json=body)).json()["model_version"])
        return ""

    def servers(self, region: Region) -> list[PodWorker]:
        """The region's pods of the server's, those that end included."""
        return [one for one in region.workers if one.component == "server"]

    def pickers(self, region: Region) -> list[PodWorker]:
        """The region's pickers of the HTTP pool: the one that leads, and the others."""
        return [one for one in region.workers if one.component == "http-picker"]

    async def until_picked(self) -> None:
        """Wait until the primary region's picker places requests."""
        async with asyncio.timeout(SETTLE_SECONDS):
            while not self._picker_addresses(REGIONS[0]):
                await asyncio.sleep(0.2)

    def server_pids(self) -> list[int]:
        pods = [worker for region in self.regions.values() for worker in self.servers(region)]
        return [pid for worker in pods for first in worker.pids for pid in descendants(first)]

    def control_plane_pids(self) -> list[int]:
        return [pid for region in self.regions.values() for pid in region.plane.pids]

    def pids(self) -> dict[str, list[int]]:
        """The running processes, by the group they belong to."""
        return {
            "servers": self.server_pids(),
            "control planes": self.control_plane_pids(),
            "proxy": [self.gateway.proxy.pid],
            "load and kubelets": [os.getpid()],
        }

    def _pods(self, region: str) -> list[str]:
        return self.regions[region].endpoints.ready(NAMESPACE, RELEASE)

    def _picker_addresses(self, region: str) -> list[str]:
        return self.regions[region].endpoints.ready(NAMESPACE, f"{RELEASE}-http-picker")

    def _describe(self) -> str:
        """The servers with the end of their logs."""
        pods = [worker for region in self.regions.values() for worker in self.servers(region)]
        return "\n".join(f"{pod.name} {pod.address}: {pod.log()[-1500:]}" for pod in pods)

    async def close(self) -> None:
        for region in self.regions.values():
            await region.stop()
        if hasattr(self, "gateway"):
            self.gateway.proxy.stop()


def machines(region: str, number: int) -> Iterator[Machine]:
    """Machines of the slice that the region's values ask for, and one for the other pods."""
    slice_name = overrides.region_values(region)["slice"]
    for index in range(NUM_TPU_NODES):
        name = f"{region}-tpu-{index}"
        address = f"10.{number}.{index + 1}.1"
        yield Machine(
            name=name,
            region=region,
            pool="tpu",
            address=address,
            slice=slice_name,
            chips_by_claim=region == CHIPS_BY_CLAIM,
        )
    address = f"10.{number}.{NUM_TPU_NODES + 1}.1"
    yield Machine(name=f"{region}-default-0", region=region, pool="default", address=address)
