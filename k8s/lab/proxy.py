"""Envoy as the cross-region gateway: one address per region, with the other region as fallback.

Builds Envoy's configuration and runs Envoy. Knows replicas only as regions and ports.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from k8s.lab.chart_numbers import Numbers
from k8s.lab.ports import HOST, free_ports

ENVOY = Path(".cache/envoy/bin/envoy")
REGION_HEADER = "x-antipode-upstream"
_EXTENSIONS = "type.googleapis.com/envoy.extensions"
_RETRY_ON = (
    "connect-failure,refused-stream,reset,retriable-status-codes,cancelled,unavailable,"
    "resource-exhausted"
)

type Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a region's clients call, or where a replica listens: a host and its ports."""

    http: int
    grpc: int
    host: str = HOST


class Proxy:
    """A running Envoy with this configuration."""

    def __init__(self, config: Json, folder: Path) -> None:
        with free_ports(1) as [self._admin_port]:
            config["admin"] = {"address": _socket(HOST, self._admin_port)}
        path = folder / "envoy.json"
        path.write_text(json.dumps(config, indent=1))
        self._log_path = folder / "envoy.log"
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [str(ENVOY), "-c", str(path), "--use-dynamic-base-id", "-l", "warning"],
                stdout=log,
                stderr=log,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    async def is_whole(self) -> bool:
        """Whether Envoy sends requests to every replica."""
        return all(is_sound for hosts in (await self.hosts()).values() for is_sound in hosts)

    async def hosts(self) -> dict[str, list[bool]]:
        """For each cluster of Envoy's, whether each of its replicas gets requests. A proxy that
        does not answer yet has one that gets none. RuntimeError if Envoy has ended.
        """
        if self._process.poll() is not None:
            raise RuntimeError(f"Envoy ended:\n{self._log_path.read_text()[-2000:]}")
        async with httpx.AsyncClient(trust_env=False, timeout=2) as client:
            url = f"http://{HOST}:{self._admin_port}/clusters?format=json"
            try:
                clusters = (await client.get(url)).json()["cluster_statuses"]
            except httpx.TransportError:
                return {"": [False]}
        return {
            one["name"]: [_is_sound(host["health_status"]) for host in one.get("host_statuses", ())]
            for one in clusters
        }

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def configuration(
    regions: Mapping[str, Sequence[Address]],
    addresses: Mapping[str, Address],
    numbers: Numbers,
    *,
    retries: bool,
) -> Json:
    """Envoy's bootstrap: for each region a listener and a cluster of each protocol."""
    listeners, clusters = [], []
    for region, address in addresses.items():
        for protocol in ("http", "grpc"):
            name = f"{protocol}-{region}"
            socket = _socket(address.host, getattr(address, protocol))
            listeners.append(_listener(name, socket, numbers, retries=retries))
            clusters.append(_cluster(name, protocol, region, regions, numbers))
    return {"static_resources": {"listeners": listeners, "clusters": clusters}}


def _listener(name: str, socket: Json, numbers: Numbers, *, retries: bool) -> Json:
    route: Json = {"cluster": name, "timeout": _seconds(numbers.gateway_timeout)}
    if retries:
        route["retry_policy"] = _retry_policy(numbers)
    return {
        "name": name,
        "address": socket,
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": {
                            "@type": f"{_EXTENSIONS}.filters.network.http_connection_manager.v3."
                            "HttpConnectionManager",
                            "stat_prefix": name,
                            "route_config": _routes(route),
                            "http_filters": [_router()],
                        },
                    }
                ]
            }
        ],
    }


def _routes(route: Json) -> Json:
    header = {"key": REGION_HEADER, "value": "%UPSTREAM_REMOTE_ADDRESS%"}
    return {
        "virtual_hosts": [
            {
                "name": "all",
                "domains": ["*"],
                "routes": [{"match": {"prefix": "/"}, "route": route}],
                "response_headers_to_add": [{"header": header}],
            }
        ]
    }


def _router() -> Json:
    kind = f"{_EXTENSIONS}.filters.http.router.v3.Router"
    return {"name": "envoy.filters.http.router", "typed_config": {"@type": kind}}


def _retry_policy(numbers: Numbers) -> Json:
    retry = f"{_EXTENSIONS}.retry"
    return {
        "retry_on": _RETRY_ON,
        # Envoy also retries when a queue is full, so that load spills over into the other region.
        "retriable_status_codes": [503, 429],
        "num_retries": numbers.num_retries,
        "per_try_idle_timeout": _seconds(numbers.quiet_timeout),
        "retry_back_off": {"base_interval": "0.002s", "max_interval": "0.05s"},
        "host_selection_retry_max_attempts": 5,
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {"@type": f"{retry}.host.previous_hosts.v3.PreviousHostsPredicate"},
            }
        ],
        "retry_priority": {
            "name": "envoy.retry_priorities.previous_priorities",
            "typed_config": {
                "@type": f"{retry}.priority.previous_priorities.v3.PreviousPrioritiesConfig",
                "update_frequency": 1,
            },
        },
    }


def _cluster(
    name: str,
    protocol: str,
    region: str,
    regions: Mapping[str, Sequence[Address]],
    numbers: Numbers,
) -> Json:
    """Both regions, the own one first; a region's loss would exhaust a smaller retry budget."""
    ordered = sorted(regions, key=lambda other: other != region)
    thresholds = {"max_requests": 16384, "max_pending_requests": 4096, "max_retries": 1024}
    cluster: Json = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "0.5s",
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "circuit_breakers": {"thresholds": [{"max_connections": 4096, **thresholds}]},
        "health_checks": [_health_check(numbers)],
        "outlier_detection": _outlier_detection(numbers),
        "load_assignment": {
            "cluster_name": name,
            "policy": {"overprovisioning_factor": numbers.overprovisioning_percent},
            "endpoints": [
                _locality(other, priority, protocol, regions[other])
                for priority, other in enumerate(ordered)
            ],
        },
    }
    if protocol == "grpc":
        cluster["typed_extension_protocol_options"] = _http2()
    return cluster


def _health_check(numbers: Numbers) -> Json:
    interval = _seconds(numbers.check_interval)
    return {
        "http_health_check": {"path": numbers.check_path},
        "timeout": _seconds(numbers.check_timeout),
        "interval": interval,
        "no_traffic_interval": interval,
        "unhealthy_interval": interval,
        "unhealthy_threshold": numbers.unhealthy_threshold,
        "healthy_threshold": numbers.healthy_threshold,
    }


def _outlier_detection(numbers: Numbers) -> Json:
    """Ejects a replica that fails requests, before the health checks notice.

    A silent replica counts as failing. If Envoy counted local failures separately, each successful
    connection would cancel a silence. All ejections have one length: by default each is longer than
    the last, so a region that came back would get no requests for minutes.
    """
    return {
        "interval": "1s",
        "base_ejection_time": numbers.ejection,
        "max_ejection_time": numbers.ejection,
        "max_ejection_percent": 100,
        # A server whose engine hangs still passes its health checks for a while.
        "successful_active_health_check_uneject_host": False,
        "consecutive_5xx": numbers.failures_to_eject,
    }


def _http2() -> Json:
    kind = f"{_EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions"
    keepalive = {"connection_keepalive": {"interval": "1s", "timeout": "1s"}}
    return {
        kind.removeprefix("type.googleapis.com/"): {
            "@type": kind,
            "explicit_http_config": {"http2_protocol_options": keepalive},
        }
    }


def _locality(region: str, priority: int, protocol: str, replicas: Sequence[Address]) -> Json:
    """The HTTP port is checked for the endpoints of both protocols, as in the charts' policies."""
    endpoints = [
        {
            "address": _socket(replica.host, getattr(replica, protocol)),
            "health_check_config": {"port_value": replica.http},
        }
        for replica in replicas
    ]
    return {
        "locality": {"region": region},
        "priority": priority,
        "lb_endpoints": [{"endpoint": endpoint} for endpoint in endpoints],
    }


def _is_sound(status: Mapping[str, Any]) -> bool:
    """Whether an endpoint is in service: Envoy lists every flag that keeps a host out."""
    return set(status) <= {"eds_health_status"}


def _socket(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}


def _seconds(seconds: float) -> str:
    return f"{seconds:g}s"
