"""The health-check, timeout, drain and retry numbers of the lab, each with its reason.

What a number means on GKE is in `docs/failover.md`. Times are in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """`quiet_timeout` must exceed the slowest first token; `lame_duck` must exceed the time a
    gateway takes to see that a replica is not ready, `detection`.
    """

    check_interval: float = 1.0
    check_timeout: float = 0.5
    unhealthy_threshold: int = 2
    healthy_threshold: int = 2
    quiet_timeout: float = 2.0
    num_retries: int = 3
    # Of the region that is asked, so many times its even share is sent there before any spills.
    overprovisioning_percent: int = 140
    lame_duck: float = 5.0
    drain_timeout: float = 20.0
    hang_timeout: float = 3.0

    @property
    def detection(self) -> float:
        """The longest that a replica which fails its checks is still sent requests."""
        return self.unhealthy_threshold * self.check_interval + self.check_timeout

    @property
    def silence(self) -> float:
        """The longest that a request waits at a replica which says nothing, its retry included."""
        return max(self.detection, self.quiet_timeout) + self.quiet_timeout
