"""How long a kubelet waits before it starts a container again. Pure."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_SECONDS, MOST_SECONDS = 10.0, 300.0
# A container that ran this long starts again as if it had never failed.
FORGET_SECONDS = 600.0


@dataclass(slots=True)
class Backoff:
    """The delays of one container: none, then 10 s, doubled up to five minutes."""

    _next: float = 0.0

    def delay(self, ran_seconds: float) -> float:
        """Seconds to wait after a container ended that had run for `ran_seconds`."""
        if ran_seconds >= FORGET_SECONDS:
            self._next = 0.0
        now, self._next = self._next, min(max(FIRST_SECONDS, self._next * 2), MOST_SECONDS)
        return now
