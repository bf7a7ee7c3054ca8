"""The lab's numbers for health checks, timeouts, drains and retries, as the charts render them.

The lab renders the server's chart with the values of both regions, and the gateway's chart for GKE.
Settings that a GKE gateway does not have come from the gateway's chart for Envoy.
`docs/failover.md` says what each number means and why it has its value. Times are in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import helm_python
import yaml

HELM = Path("helm")
# The primary first.
REGIONS = ("us-east5", "europe-west4")
_LAME_DUCK, _DRAIN_TIMEOUT, _HANG_TIMEOUT = (
    f"ANTIPODE_{name}_SECONDS" for name in ("LAME_DUCK", "DRAIN_TIMEOUT", "HANG_TIMEOUT")
)
# The longest time to an answer from a region that suddenly gets all traffic.
ANSWER_SECONDS = 1.0
_POOLS = ("http", "grpc")

type Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """`servers` has, by region, the times in its pods' environment. The last two numbers exist only
    in the lab: `quiet_timeout` is the proxy's timeout per try, which must exceed the slowest first
    token. A region gets `overprovisioning_percent` of its even share before requests spill over.
    """

    check_path: str
    check_interval: float
    check_timeout: float
    unhealthy_threshold: int
    healthy_threshold: int
    gateway_timeout: float
    num_retries: int
    failures_to_eject: int
    ejection: str
    servers: Mapping[str, Mapping[str, str]]
    quiet_timeout: float = 2.0
    overprovisioning_percent: int = 140

    @classmethod
    def from_charts(cls) -> Self:
        gateway = _render("antipode-gateway", {"regions": [*REGIONS]})
        check = _agreed([_spec(gateway, "HealthCheckPolicy", f"lab-{p}") for p in _POOLS])
        backend = _agreed([_spec(gateway, "GCPBackendPolicy", f"lab-{p}") for p in _POOLS])
        hosts = [{"host": f"{region}.example"} for region in REGIONS]
        envoy = _render("antipode-gateway", {"flavour": "envoy", "envoy": {"backends": hosts}})
        traffic = [_spec(envoy, "BackendTrafficPolicy", f"lab-{p}") for p in _POOLS]
        passive = _agreed([policy["healthCheck"]["passive"] for policy in traffic])
        retry = _agreed([policy["retry"] for policy in traffic])
        return cls(
            check_path=check["config"]["httpHealthCheck"]["requestPath"],
            check_interval=check["checkIntervalSec"],
            check_timeout=check["timeoutSec"],
            unhealthy_threshold=check["unhealthyThreshold"],
            healthy_threshold=check["healthyThreshold"],
            gateway_timeout=backend["timeoutSec"],
            num_retries=retry["numRetries"],
            failures_to_eject=passive["consecutive5XxErrors"],
            ejection=passive["baseEjectionTime"],
            servers={region: _server_times(region) for region in REGIONS},
        )

    @property
    def lame_duck(self) -> float:
        return min(float(times[_LAME_DUCK]) for times in self.servers.values())

    @property
    def detection(self) -> float:
        """The longest time that a replica still gets requests after it began to fail its checks."""
        return self.unhealthy_threshold * self.check_interval + self.check_timeout

    @property
    def silent_detection(self) -> float:
        """The longest time until the checks see a silent replica: each waits for an answer."""
        return self.unhealthy_threshold * (self.check_interval + self.check_timeout)

    @property
    def silence(self) -> float:
        """The longest time until another region answers for silent replicas: a retry goes to the
        other region at once.
        """
        return self.quiet_timeout + ANSWER_SECONDS


def _server_times(region: str) -> dict[str, str]:
    values = yaml.safe_load((HELM / "regions" / f"{region}.yaml").read_text())
    pod = _spec(_render("antipode", values), "Deployment", "lab")["template"]["spec"]
    variables = {entry["name"]: entry.get("value") for entry in pod["containers"][0]["env"]}
    return {name: variables[name] for name in (_LAME_DUCK, _DRAIN_TIMEOUT, _HANG_TIMEOUT)}


def _render(chart: str, values: Json) -> list[Json]:
    """Every object that the chart renders for a release called `lab`."""
    loaded = helm_python.Chart.load(HELM / chart)
    loaded.validate_schema(values)
    texts = loaded.render(values, name="lab", namespace="lab")
    manifests = (text for name, text in texts.items() if name.endswith(".yaml"))
    return [one for text in manifests for one in yaml.safe_load_all(text) if one]


def _spec(objects: list[Json], kind: str, name: str) -> Json:
    [spec] = [o["spec"] for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]
    return dict(spec.get("default", spec))


def _agreed(specs: list[Json]) -> Json:
    """The policy of all pools; the lab supports only one for all."""
    if any(spec != specs[0] for spec in specs):
        raise ValueError(f"the charts give the pools different policies: {specs}")
    return specs[0]
