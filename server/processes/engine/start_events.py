"""What a serving process hears of its start and of its group, put into its status and its log.

It ends the process when the group is lost; it neither builds nor serves.
"""

from __future__ import annotations

import logging
import os

from server.child_processes import ask_for_drain
from server.link.frames import Fatal
from server.link.server import FLUSH_SECONDS, LinkServer
from server.metrics.metrics import Metrics
from server.processes.engine.status import Status
from server.slice.chips import ChipUse
from server.slice.host_group import HostLink
from server.slice.resolve import Slice
from server.start_clock import StartPhase

_log = logging.getLogger(__name__)


class ServingListener:
    """The `BuildListener` of a host that serves, be it the leader of several or the only one."""

    def __init__(self, status: Status, metrics: Metrics, link: LinkServer) -> None:
        self._status, self._metrics, self._link = status, metrics, link

    def on_phase(self, phase: StartPhase) -> None:
        self._status.start.enter(phase)

    def on_progress(self, detail: str, progress: float) -> None:
        if detail != self._status.detail:
            _log.info("%s", detail)
        self._status.detail = detail
        self._status.start.advance(progress)

    def on_cache_hit(self) -> None:
        self._metrics.on_cache_hit()

    def on_compilation(self) -> None:
        self._metrics.on_compilation(is_ready=self._status.is_serving)

    def on_slice(self, found: Slice) -> None:
        self._status.slice = found
        _log.info(
            "slice",
            extra={
                "generation": found.generation,
                "topology": found.topology or "none",
                "chips": found.chips,
                "hosts": found.hosts,
                "host_index": found.host_index,
                "claim": found.claim.name or "none",
                "claimed_interfaces": [each.name for each in found.claimed_interfaces],
            },
        )

    def on_links(self, links: tuple[HostLink, ...]) -> None:
        self._status.host_links = links
        for link in links:
            _log.info(
                "host %d is here",
                link.index,
                extra={"interface": link.interface or "of the pod", "address": link.address},
            )

    def on_chips(self, index: int, use: ChipUse) -> None:
        self._status.chips[index] = use

    def on_leaving(self, index: int) -> None:
        _log.info("host %d was told to end: all hosts drain", index)
        ask_for_drain()

    def on_lost(self, reason: str) -> None:
        """The main thread may be inside a collective that never ends: the process goes at once."""
        _log.critical("%s; the server ends on all hosts", reason)
        self._link.broadcast(Fatal(message=f"its slice is not whole any more: {reason}"))
        self._link.close(FLUSH_SECONDS)
        logging.shutdown()
        os._exit(1)
