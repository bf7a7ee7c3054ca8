"""A follower's side of a group: reach the leader by the best way there is, hear it, miss it.

The leader is looked for on the pods' network, where it may still be starting; it says which claimed
addresses it has, and one that can be reached is used from then on.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from server.config import EngineConfig
from server.hosts.connection import Connection
from server.hosts.messages import (
    Chosen,
    Hello,
    Lost,
    ToFollower,
    ToLeader,
    Welcome,
    follower_codec,
)
from server.slice.group import Group, GroupError
from server.slice.interfaces import Interface

_RETRY_SECONDS = 0.2
_CONNECT_SECONDS = 2.0

type _Line = Connection[ToLeader, ToFollower]


class Leader:
    """The leader as a follower knows it: its settings, which hold here too, and its words."""

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
        """From now on the leader may not be silent for so many seconds."""

        def take(frame: ToFollower) -> None:
            if isinstance(frame, Lost):
                on_lost(frame.message)
            else:
                self._frames.put(frame)

        self._line.start(silence, take, lambda reason: on_lost(f"host 0 is gone: {reason}"))

    def send(self, frame: ToLeader) -> None:
        self._line.send(frame)

    def hear(self) -> ToFollower:
        """Its next word, waiting for as long as it is there."""
        return self._frames.get()

    def hear_one[T](self, kind: type[T]) -> T:
        """The same, where only one kind can come."""
        frame = self.hear()
        if not isinstance(frame, kind):
            raise GroupError(f"host 0 said {frame!r} in place of {kind.__name__}")
        return frame

    def close(self) -> None:
        """Hang up; not a loss."""
        self._line.close()


def join(
    group: Group, config: EngineConfig, software: str, interfaces: Sequence[Interface]
) -> Leader:
    """Find the leader and settle how it is reached; not started yet.

    `interfaces` are this host's claimed ones. GroupError where the leader is not there in time or
    turns this host away.
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
        f"host 0 does not answer at {host}, port {group.port}: see why it did not start, or raise "
        "group_start_timeout_seconds"
    )


def _connect(host: str, port: int, timeout: float, source: str = "") -> _Line | None:
    """None where there is no way, or nobody, yet."""
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
            "not all hosts were here in time: see why the others did not start, or raise "
            "group_start_timeout_seconds"
        ) from None
    except (OSError, ValueError) as error:
        raise GroupError(f"host 0 is gone: {error}") from error
    if isinstance(welcome, Lost):
        raise GroupError(welcome.message)
    if not isinstance(welcome, Welcome):
        raise GroupError(f"host 0 said {welcome!r} in place of Welcome")
    return welcome
