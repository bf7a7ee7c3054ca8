"""A follower's side of a group: connects to the leader the best way, and notices its loss.

The follower looks for the leader on the pods' network; the leader may still be starting. The leader
sends its claimed addresses, and the follower uses one of them if it can reach it.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from server.config import EngineConfig
from server.hosts.messages import (
    Chosen,
    Hello,
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

type _Line = Connection[ToLeader, ToFollower]


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
    group: Group, config: EngineConfig, software: str, interfaces: Sequence[Interface]
) -> Leader:
    """Find the leader and agree on the connection to it. Does not start reading.

    `interfaces` are this host's claimed interfaces. Raises GroupError where the leader is not there
    in time or refuses this host.
    """
    deadline = time.monotonic() + config.group_start_timeout_seconds
    hello = Hello(index=group.index, software=software)
    line = _find(group, hello, deadline)
    try:
        welcome = _welcome(line, deadline)
    except GroupError:
        line.close()
        raise
    for own, address in zip(interfaces, welcome.addresses, strict=False):
        claimed = _connect(address, group.port, _CONNECT_SECONDS, own.address)
        if claimed is not None:
            claimed.send(hello)
            line.send(Chosen(interface=own.name))
            line.close()
            return Leader(claimed, welcome, group.index, own.name)
    line.send(Chosen())
    return Leader(line, welcome, group.index, "")


def _find(group: Group, hello: Hello, deadline: float) -> _Line:
    host = group.hostnames[0]
    while time.monotonic() < deadline:
        if line := _connect(host, group.port, _CONNECT_SECONDS):
            line.send(hello)
            return line
        time.sleep(_RETRY_SECONDS)
    raise GroupError(
        f"host 0 does not answer at {host}, port {group.port}: find out why it did not start, or "
        "raise group_start_timeout_seconds"
    )


def _connect(host: str, port: int, timeout: float, source: str = "") -> _Line | None:
    """A connection; None where there is no route yet, or no listener."""
    with contextlib.suppress(OSError):
        bound = (source, 0) if source else None
        peer = socket.create_connection((host, port), timeout, source_address=bound)
        return Connection(peer, follower_codec())
    return None


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
