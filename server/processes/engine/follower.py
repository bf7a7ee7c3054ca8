"""The engine process on a follower host: it builds what the leader builds and then does what the
leader does.

It serves nobody. It ends well when the leader says so, and with exit code 1 when the group cannot
go on, whatever this process is waiting for then.
"""

from __future__ import annotations

import logging
import os
import time

from server.child_processes import Command
from server.config.engine_config import EngineConfig
from server.free_memory import settle_memory
from server.hosts import messages
from server.hosts.joining import Leader, join
from server.processes.engine.build import build_following, checkpoint_loader, software, unexplained
from server.slice.chips import ChipMonitor, monitor_of
from server.slice.group_secret import read_group_secret
from server.slice.host_group import LOSS_SECONDS, Group, GroupError
from server.slice.interfaces import claimed, read_interfaces
from server.slice.reported_slice import SliceMismatchError
from server.slice.resolve import Slice
from server.start_clock import StartClock, StartPhase, process_age

_FAILED = 1

_log = logging.getLogger(__name__)


class FollowerProcess:
    """One follower's whole life."""

    def __init__(self, config: EngineConfig, group: Group) -> None:
        self._config, self._group = config, group
        self._start = StartClock(age=process_age())
        self._detail = ""
        self._leader: Leader | None = None
        self._slice: Slice | None = None
        self._monitor: ChipMonitor | None = None

    def run(self) -> int:
        """Follow until the leader says stop; the process's exit code."""
        try:
            self._start.enter("hosts")
            leader = self._leader = self._join()
            self._start.enter("import")
        except (GroupError, SliceMismatchError) as error:
            _log.critical("cannot start: %s", error)
            return _FAILED
        try:
            self._follow(leader)
        except Exception as error:
            # A lost leader first shows as a failed collective: let who watches it speak.
            time.sleep(LOSS_SECONDS)
            _log.critical("cannot go on: %s", error, exc_info=unexplained(error))
            leader.send(messages.Failed(message=str(error) or repr(error)))
            return _FAILED
        _log.info("stopped")
        leader.close()
        return 0

    def command(self, command: Command) -> None:
        """What the main process wants. The leader has requests to finish, so this host goes on."""
        if self._monitor is not None:
            self._monitor.stop()
        if self._leader is None:
            _log.info("stopped while starting")
            logging.shutdown()
            os._exit(0)
        _log.info("asked to %s; following until host 0 has finished", command)
        self._leader.send(messages.Leaving())

    def on_phase(self, phase: StartPhase) -> None:
        self._start.enter(phase)

    def on_progress(self, detail: str, progress: float) -> None:
        if detail != self._detail:
            _log.info("%s", detail)
        self._detail = detail

    def on_slice(self, found: Slice) -> None:
        self._slice = found
        _log.info("slice", extra={"chips": found.chips, "host_index": found.host_index})

    def _join(self) -> Leader:
        interfaces = [each for each in claimed(read_interfaces()) if each.address]
        _log.info(
            "following",
            extra={"host_index": self._group.index, "leader": self._group.hostnames[0]},
        )
        secret = read_group_secret(self._config, self._group)
        leader = join(self._group, secret, self._config, software(), interfaces)
        if interfaces and not leader.interface:
            _log.warning(
                "host 0 cannot be reached over %s: using the pod's network",
                ", ".join(each.name for each in interfaces),
            )
        leader.start(leader.config.group_timeout_seconds, self._on_lost)
        return leader

    def _on_lost(self, reason: str) -> None:
        """The main thread may be inside a collective that never ends: the process goes at once."""
        _log.critical("%s; the server ends on all hosts", reason)
        logging.shutdown()
        os._exit(_FAILED)

    def _follow(self, leader: Leader) -> None:
        executor = build_following(leader, self._group, self)
        settle_memory()
        leader.send(messages.Ready(weights=executor.weights_digest))
        # JAX is there by now.
        from server.hosts.replication import Replica

        self._start.end()
        _log.info("loaded and warm in %s", self._start.summary())
        self._watch_chips(leader)
        Replica(executor, checkpoint_loader(executor, leader.config), leader).run()

    def _watch_chips(self, leader: Leader) -> None:
        self._monitor = monitor_of(
            self._slice,
            leader.config.tpu_metrics_interval_seconds,
            lambda use: leader.send(messages.Chips(use=use)),
        )
        if self._monitor is not None:
            self._monitor.start()
