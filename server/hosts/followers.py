"""The leader's side of a group: gathers the followers, sends to all of them, notices a loss.

Followers connect over the pods' network, prove that they have the group's secret, and receive the
leader's claimed addresses. Each follower keeps the best connection that it can make. Then the group
is complete: nothing listens any more, and losing one host ends it.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from server.hosts.caller_listener import CallerListener
from server.hosts.handshake import Admitted
from server.hosts.messages import (
    Chips,
    Chosen,
    Failed,
    Leaving,
    Lost,
    Stop,
    ToFollower,
    ToLeader,
    Welcome,
    leader_codec,
)
from server.hosts.watched_connection import Connection
from server.slice.chips import ChipUse
from server.slice.host_group import Group, GroupError, HostLink

# A host chooses soon after its welcome.
_CHOICE_SECONDS = 30.0
_STOP_SECONDS = 2.0

type Line = Connection[ToFollower, ToLeader]
type _Arrival = tuple[int, Line]


class GroupListener(Protocol):
    """Receives the events of a group, from any thread."""

    def on_lost(self, reason: str) -> None:
        """The hosts cannot go on together, so this process must end. Called once."""

    def on_leaving(self, index: int) -> None:
        """Host `index` was asked to end. Hosts can only end together, so all of them must drain."""

    def on_chips(self, index: int, use: ChipUse) -> None:
        """The latest use of the chips of host `index`."""


@dataclass(slots=True, eq=False)
class _Follower:
    """`interface` is the claimed interface it is reached by, or "" for the pod's own."""

    line: Line
    interface: str = ""
    answers: queue.SimpleQueue[ToLeader] = field(default_factory=queue.SimpleQueue)


class Followers:
    """All followers of a complete group."""

    def __init__(self, followers: dict[int, _Follower], listener: GroupListener) -> None:
        self._followers, self._listener = followers, listener
        self._is_ending = False

    @property
    def links(self) -> tuple[HostLink, ...]:
        return tuple(
            HostLink(index=index, interface=each.interface, address=each.line.peer_address)
            for index, each in self._followers.items()
        )

    @property
    def meeting_address(self) -> str:
        """This host's address that all followers use; "" where they use several."""
        addresses = {each.line.own_address for each in self._followers.values()}
        return addresses.pop() if len(addresses) == 1 else ""

    def start(self, silence: float) -> None:
        """From now on, no follower may be silent for `silence` seconds."""
        for index, follower in self._followers.items():
            follower.line.start(silence, self._on_frame_of(index), self._on_end_of(index))

    def send(self, frame: ToFollower) -> None:
        """Send a frame to all followers, from any thread."""
        for follower in self._followers.values():
            follower.line.send(frame)

    def hear[T](self, kind: type[T]) -> dict[int, T]:
        """The next answer of each follower, by index; waits as long as the followers are there."""
        answers: dict[int, T] = {}
        for index, follower in self._followers.items():
            answer = follower.answers.get()
            if not isinstance(answer, kind):
                raise GroupError(f"host {index} sent {answer!r} instead of {kind.__name__}")
            answers[index] = answer
        return answers

    def stop(self) -> None:
        """Have all followers exit with code 0; waits a moment for that."""
        self._end(Stop())

    def end(self, reason: str) -> None:
        """Have all followers exit because of `reason`."""
        self._end(Lost(message=reason))

    def close(self) -> None:
        """Close all connections; followers do not count as lost."""
        self._is_ending = True
        for follower in self._followers.values():
            follower.line.close()

    def _end(self, frame: Stop | Lost) -> None:
        self._is_ending = True
        self.send(frame)
        deadline = time.monotonic() + _STOP_SECONDS
        for follower in self._followers.values():
            follower.line.wait_end(max(0.0, deadline - time.monotonic()))
        self.close()

    def _on_frame_of(self, index: int) -> Callable[[ToLeader], None]:
        def take(frame: ToLeader) -> None:
            match frame:
                case Failed():
                    self._lose(f"host {index} failed: {frame.message}")
                case Leaving():
                    self._listener.on_leaving(index)
                case Chips():
                    self._listener.on_chips(index, frame.use)
                case _:
                    self._followers[index].answers.put(frame)

        return take

    def _on_end_of(self, index: int) -> Callable[[str], None]:
        return lambda reason: self._lose(f"host {index} is gone: {reason}")

    def _lose(self, reason: str) -> None:
        if self._is_ending:
            return
        self._is_ending = True
        self.send(Lost(message=reason))
        self._listener.on_lost(reason)


def gather(
    group: Group,
    secret: bytes,
    welcome: Welcome,
    software: str,
    on_progress: Callable[[int], None],
    listener: GroupListener,
) -> Followers:
    """Wait for every follower, welcome it and agree on its connection. Does not start reading.

    A caller that does not prove that it has `secret` changes nothing. `on_progress` is called with
    the number of hosts that are here. Raises GroupError where a host does not come in time or runs
    other `software`.
    """
    deadline = time.monotonic() + welcome.config.group_start_timeout_seconds
    here: dict[int, Line] = {}
    with _closed_on_error(here), CallerListener(_listen(group), secret) as door:
        while len(here) < group.size - 1:
            on_progress(1 + len(here))
            index, line = _greet(door, group, software, deadline, 1 + len(here))
            if index in here:  # The host's pod was restarted.
                here[index].close()
            here[index] = line
        for line in here.values():
            line.send(welcome)
        choices = {index: _choice(index, line) for index, line in here.items()}
        awaited = {index for index, interface in choices.items() if interface}
        while awaited:
            index, line = _greet(door, group, software, deadline, group.size)
            if index not in awaited:  # Its pod was restarted: the loss is noticed soon.
                line.close()
                continue
            here[index].close()
            here[index] = line
            awaited.remove(index)
        followers = {i: _Follower(here[i], interface) for i, interface in choices.items()}
    return Followers(dict(sorted(followers.items())), listener)


@contextlib.contextmanager
def _closed_on_error(lines: dict[int, Line]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for line in lines.values():
            line.close()
        raise


def _listen(group: Group) -> socket.socket:
    try:
        return socket.create_server((group.listening_address, group.port))
    except OSError as error:
        raise GroupError(
            f"cannot listen on port {group.port}, where the other hosts connect: "
            f"{error.strerror or error}; choose another group_port"
        ) from error


def _greet(
    door: CallerListener, group: Group, software: str, deadline: float, num_here: int
) -> _Arrival:
    """The next follower that has proved itself. Raises GroupError where it runs other software."""
    while True:
        caller = door.next_caller(deadline - time.monotonic())
        if caller is None:
            raise GroupError(
                f"only {num_here} of {group.size} hosts came in time: find out why the others did "
                "not start, or raise group_start_timeout_seconds"
            )
        index = caller.admitted.index
        if not 0 < index < group.size:
            door.turn_away(caller.peer, f"it is host {index} of a group of {group.size}")
            continue
        line: Line = Connection(caller.peer, leader_codec(), caller.admitted.seals)
        _check_software(line, caller.admitted, software)
        return index, line


def _check_software(line: Line, admitted: Admitted, software: str) -> None:
    if admitted.software == software:
        return
    reason = (
        f"host {admitted.index} runs {admitted.software} but host 0 runs {software}: use one image "
        "for all hosts"
    )
    line.send(Lost(message=reason))
    line.close()
    raise GroupError(reason)


def _choice(index: int, line: Line) -> str:
    """The interface that a follower chose."""
    try:
        chosen = line.receive(_CHOICE_SECONDS)
    except (OSError, ValueError) as error:
        raise GroupError(f"host {index} is gone: {error}") from error
    if not isinstance(chosen, Chosen):
        raise GroupError(f"host {index} sent {chosen!r} instead of Chosen")
    return chosen.interface
