"""What one connection may take of the server: times, sizes, and the least pace of a body.

Knows neither sockets nor requests.
"""

from __future__ import annotations

from dataclasses import dataclass

# A body that comes slower than this, after `body_timeout_seconds`, is given up.
MIN_BODY_BYTES_PER_SECOND = 4096
# Google's load balancers keep idle connections for 600 s; the server must not close them earlier.
KEEP_ALIVE_SECONDS = 620


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """What one connection may take, and whose pages may read a refusal. Times are seconds."""

    head_timeout: float
    body_timeout: float
    max_header_bytes: int
    max_body_bytes: int
    cors_origins: tuple[str, ...] = ()


@dataclass(slots=True)
class BodyPace:
    """How far a body has come. `began_at` is a time of the event loop."""

    began_at: float
    num_bytes: int = 0

    def ends_at(self, timeout_seconds: float) -> float:
        """When the body is given up, unless more of it comes before."""
        return self.began_at + timeout_seconds + self.num_bytes / MIN_BODY_BYTES_PER_SECOND
