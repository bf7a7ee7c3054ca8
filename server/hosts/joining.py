"""A follower's side of a group: connects to the leader the best way, and notices its loss.

The follower looks for the leader on the pods' network; the leader may still be starting. Whoever
answers must prove to be the leader before the follower takes anything from it. The leader sends its
claimed addresses, and the follower uses one of them if it can reach it.
"""

from __future__ import annotations

import logging
import queue
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from server.config.engine_config import EngineConfig
from server.hosts.handshake import HandshakeError, enter
from server.hosts.messages import (
    Chosen,
    Lost,
    ToFollower,
    ToLeader,
    Welcome,
    follower_codec,
)
from server.hosts.watched_connection import Connection
from server.slice.host_group import Group, GroupError
from server.slice.interfaces import Interface

_RETRY_SECONDS = 0.2
_CONNECT_SECONDS = 2.0
_LOG_SECONDS = 10.0

type _Line = Connection[ToLeader, ToFollower]

_log = logging.getLogger(__name__)


class Leader:
    """The leader as a follower knows it: its settings, which apply here too, and its frames."""

    def __init__(self, line: _Line, welcome: Welcome, index: int, interface: str) -> None:
        self._line = line
        self._frames: queue.SimpleQueue[ToFollower] = queue.SimpleQueue()
        self.config: EngineConfig = replace(welcome.config, host_index=index)
        self.version: str = welcome.version
        self.interface = interface

    @property
    def address(self) -> str:
        return self._line.peer_address

    def start(self, silence: float, on_lost: Callable[[str], None]) -> None:
        """From now on, the leader may not be silent for `silence` seconds."""

        def take(frame: ToFollower) -> None:
            if isinstance(frame, Lost):
                on_lost(frame.message)
            else:
                self._frames.put(frame)

        self._line.start(silence, take, lambda reason: on_lost(f"host 0 is gone: {reason}"))

    def send(self, frame: ToLeader) -> None:
        self._line.send(frame)

    def hear(self) -> ToFollower:
        """The leader's next frame; waits as long as the leader is there."""
        return self._frames.get()

    def hear_one[T](self, kind: type[T]) -> T:
        """The leader's next frame, which must be of this kind. Raises GroupError."""
        frame = self.hear()
        if not isinstance(frame, kind):
            raise GroupError(f"host 0 sent {frame!r} instead of {kind.__name__}")
        return frame

    def close(self) -> None:
        """Close the connection; the leader does not count as lost."""
        self._line.close()


def join(
    group: Group,
    secret: bytes,
    config: EngineConfig,
    software: str,
    interfaces: Sequence[Interface],
) -> Leader:
    """Find the leader and agree on the connection to it. Does not start reading.

    `interfaces` are this host's claimed interfaces. Raises GroupError where the leader is not there
    in time or refuses this host.
    """
    deadline = time.monotonic() + config.group_start_timeout_seconds
    way_in = _WayIn(group.port, secret, group.index, software)
    line = _find(way_in, group.hostnames[0], deadline)
    try:
        welcome = _welcome(line, deadline)
    except GroupError:
        line.close()
        raise
    for own, address in zip(interfaces, welcome.addresses, strict=False):
        claimed = way_in.try_at(address, own.address)
        if claimed is not None:
            line.send(Chosen(interface=own.name))
            line.close()
            return Leader(claimed, welcome, group.index, own.name)
    line.send(Chosen())
    return Leader(line, welcome, group.index, "")


class _WayIn:
    """Connects to the leader, with proofs both ways. `failure` says why the last try failed."""

    def __init__(self, port: int, secret: bytes, index: int, software: str) -> None:
        self._port, self._secret, self._index, self._software = port, secret, index, software
        self._next_log = 0.0
        self.failure = ""

    def try_at(self, host: str, source: str = "") -> _Line | None:
        """A connection to the leader; None where nobody is there or proves to be the leader."""
        self.failure = ""
        bound = (source, 0) if source else None
        try:
            peer = socket.create_connection(
                (host, self._port), _CONNECT_SECONDS, source_address=bound
            )
        except OSError:
            return None
        try:
            seals = enter(peer, self._secret, self._index, self._software)
        except HandshakeError as error:
            peer.close()
            self._fail(host, str(error))
            return None
        return Connection(peer, follower_codec(), seals)

    def _fail(self, host: str, why: str) -> None:
        self.failure = why
        if time.monotonic() >= self._next_log:
            self._next_log = time.monotonic() + _LOG_SECONDS
            _log.warning(
                "what answers at %s, port %d, has not proved to be host 0: %s; trying again",
                host,
                self._port,
                why,
            )


def _find(way_in: _WayIn, host: str, deadline: float) -> _Line:
    failure = ""
    while time.monotonic() < deadline:
        if line := way_in.try_at(host):
            return line
        failure = way_in.failure or failure
        time.sleep(_RETRY_SECONDS)
    if failure:
        raise GroupError(
            f"what answers at {host} has not proved to be host 0: {failure}; give all hosts the "
            "same group_secret_file"
        )
    raise GroupError(
        f"host 0 does not answer at {host}: find out why it did not start, or raise "
        "group_start_timeout_seconds"
    )


def _welcome(line: _Line, deadline: float) -> Welcome:
    try:
        welcome = line.receive(max(0.01, deadline - time.monotonic()))
    except TimeoutError:
        raise GroupError(
            "not all hosts came in time: find out why the others did not start, or raise "
            "group_start_timeout_seconds"
        ) from None
    except (OSError, ValueError) as error:
        raise GroupError(f"host 0 is gone: {error}") from error
    if isinstance(welcome, Lost):
        raise GroupError(welcome.message)
    if not isinstance(welcome, Welcome):
        raise GroupError(f"host 0 sent {welcome!r} instead of Welcome")
    return welcome
