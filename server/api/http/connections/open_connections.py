"""How many connections one listening port has, and which of them makes room for the next.

A connection that has no request under way is worth less than a new one: the longest such one is
closed, so silent connections never keep a probe out. If all have requests, a reserve lets probes
in. Knows nothing of HTTP.
"""

from __future__ import annotations

import logging
import time
from typing import Protocol

from server.api.open_files import most_open_files

# Connections above the limit that may still ask for a probe's path.
RESERVE = 32
_LOG_PERIOD_SECONDS = 10.0

_log = logging.getLogger(__name__)


class Member(Protocol):
    """One connection, as far as counting it needs."""

    def close_at_once(self) -> None:
        """Close the connection without an answer."""


class OpenConnections:
    """The connections of one port in one process. A member enters once and leaves once."""

    def __init__(self, max_connections: int) -> None:
        self.max_connections = min(max_connections, most_open_files() // 2)
        self._members: set[Member] = set()
        # In the order in which they began to wait for a request.
        self._waiting: dict[Member, None] = {}
        self._num_closed = 0
        self._logged_at = float("-inf")

    @property
    def is_full(self) -> bool:
        """Whether connections above the limit are there: only probes are answered then."""
        return len(self._members) > self.max_connections

    def enter(self, member: Member) -> None:
        """Count a new connection; if that is one too many, close the one that waits longest."""
        self._members.add(member)
        self.wait(member)
        if not self.is_full:
            return
        longest = next(iter(self._waiting))
        if longest is not member or len(self._members) > self.max_connections + RESERVE:
            self.leave(longest)
            longest.close_at_once()
            self._report()

    def wait(self, member: Member) -> None:
        """The member has no request under way from now on."""
        self._waiting[member] = None

    def begin(self, member: Member) -> None:
        """The member has a request under way from now on."""
        self._waiting.pop(member, None)

    def leave(self, member: Member) -> None:
        self._waiting.pop(member, None)
        self._members.discard(member)

    def _report(self) -> None:
        self._num_closed += 1
        now = time.monotonic()
        if now - self._logged_at < _LOG_PERIOD_SECONDS:
            return
        _log.warning(
            "closed %s connections without a request to make room for new ones; at most %s may be"
            " open (--max-connections, and half of the open files that the process may have)",
            self._num_closed,
            self.max_connections,
        )
        self._num_closed, self._logged_at = 0, now
