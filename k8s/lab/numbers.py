"""The health-check, timeout and drain numbers of the lab: those of the charts' values.

What each means on GKE, and why it is what it is, is in `docs/failover.md`. Times are in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml

GATEWAY_CHART = Path("helm/antipode-gateway/values.yaml")
SERVER_CHART = Path("helm/antipode/values.yaml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """The last three have no counterpart in a GKE gateway, where retries are its own affair.

    `quiet_timeout` is the proxy's per try and must exceed the slowest first token; a region is sent
    `overprovisioning_percent` of its even share before any of it spills.
    """

    check_interval: float
    check_timeout: float
    unhealthy_threshold: int
    healthy_threshold: int
    lame_duck: float
    drain_timeout: float
    hang_timeout: float
    quiet_timeout: float = 2.0
    num_retries: int = 3
    overprovisioning_percent: int = 140

    @classmethod
    def from_charts(cls) -> Self:
        """The defaults of both charts."""
        check: dict[str, Any] = yaml.safe_load(GATEWAY_CHART.read_text())["healthCheck"]
        server: dict[str, Any] = yaml.safe_load(SERVER_CHART.read_text())["server"]
        return cls(
            check_interval=check["intervalSeconds"],
            check_timeout=check["timeoutSeconds"],
            unhealthy_threshold=check["unhealthyThreshold"],
            healthy_threshold=check["healthyThreshold"],
            lame_duck=server["lameDuckSeconds"],
            drain_timeout=server["drainTimeoutSeconds"],
            hang_timeout=server["hangTimeoutSeconds"],
        )

    @property
    def detection(self) -> float:
        """The longest that a replica which fails its checks is still sent requests."""
        return self.unhealthy_threshold * self.check_interval + self.check_timeout

    @property
    def silence(self) -> float:
        """The longest that a request waits at replicas which say nothing, its retry included."""
        return max(self.detection, self.quiet_timeout) + self.quiet_timeout
