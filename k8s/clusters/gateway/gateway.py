"""Envoy in front of both regions, with the endpoints that their EndpointSlices name.

Plays the gateway of the gke flavour, which only GKE can run: each region has an address, prefers
its own pods and fails over to the other's. Its checks, retries and timeouts are the charts'.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from k8s.clusters.gateway.pickers import add_pool
from k8s.lab.chart_numbers import Numbers
from k8s.lab.proxy import Address, Proxy, configuration

type Json = dict[str, Any]

HTTP_PORT, GRPC_PORT = 8000, 9000
_ASSIGNMENT = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"


class Gateway:
    """`pods` and `pickers` give the addresses of a region's ready pods; call `update` when they
    change. A region's picker is asked only behind the region's port of `pools`.
    """

    def __init__(
        self,
        addresses: Mapping[str, Address],
        pools: Mapping[str, int],
        pods: Callable[[str], Sequence[str]],
        pickers: Callable[[str], Sequence[str]],
        numbers: Numbers,
        folder: Path,
    ) -> None:
        self.addresses, self.pools = addresses, pools
        self._pods, self._pickers = pods, pickers
        self._numbers, self._folder = numbers, folder / "endpoints"
        self._folder.mkdir(parents=True, exist_ok=True)
        config = self._configuration()
        self._written: dict[str, Json] = {}
        self._write(config)
        clusters = config["static_resources"]["clusters"]
        config["static_resources"]["clusters"] = [
            with_endpoints_of(self._path(one["name"]), one) for one in clusters
        ]
        config["node"] = {"id": "gateway", "cluster": "lab"}
        self.proxy = Proxy(config, folder)

    def update(self) -> None:
        self._write(self._configuration())

    async def is_whole(self, num_pods: int) -> bool:
        """Whether Envoy sends requests to that many pods, and has no others."""
        hosts = await self.proxy.hosts()
        servers = [found for name, found in hosts.items() if not name.startswith("picker-")]
        return all(len(one) == num_pods and all(one) for one in servers)

    def _configuration(self) -> Json:
        regions = {
            region: [Address(HTTP_PORT, GRPC_PORT, pod) for pod in self._pods(region)]
            for region in self.addresses
        }
        config = configuration(regions, self.addresses, self._numbers, retries=True)
        for region, port in self.pools.items():
            add_pool(config, region, port, self._pickers(region))
        return config

    def _write(self, config: Json) -> None:
        for cluster in config["static_resources"]["clusters"]:
            name, assignment = cluster["name"], cluster["load_assignment"]
            if self._written.get(name) != assignment:
                self._written[name] = assignment
                draft = self._path(name).with_suffix(".draft")
                draft.write_text(json.dumps({"resources": [{"@type": _ASSIGNMENT, **assignment}]}))
                draft.replace(self._path(name))

    def _path(self, name: str) -> Path:
        return (self._folder / f"{name}.json").resolve()


def with_endpoints_of(path: Path, cluster: Json) -> Json:
    """The cluster with endpoints that Envoy reads from a file, again whenever it is replaced. A
    pod that left gets no more requests, whatever its health; its streams go on.
    """
    source = {"path_config_source": {"path": str(path)}, "resource_api_version": "V3"}
    kept = {name: value for name, value in cluster.items() if name != "load_assignment"}
    return kept | {
        "type": "EDS",
        "eds_cluster_config": {"eds_config": source},
        "ignore_health_on_host_removal": True,
    }
