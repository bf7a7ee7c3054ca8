"""One connection between two hosts: frames both ways, and how it ends."""

from __future__ import annotations

import socket
from queue import Queue

import pytest

from server.hosts.messages import Beat, Hello, Ready, follower_codec, leader_codec
from server.hosts.watched_connection import Connection

HELLO = Hello(index=1, software="same")
# Seconds: long enough that nothing is silent on a busy machine.
LONG = 30.0


@pytest.fixture
def sockets():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        follower = socket.create_connection(listener.getsockname())
        leader, _ = listener.accept()
    yield leader, follower
    leader.close()
    follower.close()


@pytest.fixture
def ends(sockets):
    """The connections of a leader and of a follower, not started."""
    leader = Connection(sockets[0], leader_codec())
    follower = Connection(sockets[1], follower_codec())
    yield leader, follower
    leader.close()
    follower.close()


def start(connection, silence=LONG):
    """What arrives, and the reason of the end."""
    frames, ends = Queue(), Queue()
    connection.start(silence, frames.put, ends.put)
    return frames, ends


def test_before_the_start_a_frame_is_waited_for_and_beats_are_passed_over(ends):
    leader, follower = ends
    follower.send(Beat())
    follower.send(HELLO)
    assert leader.receive(LONG) == HELLO
    assert leader.peer_address == "127.0.0.1"


def test_what_came_before_the_start_is_not_lost(ends):
    leader, follower = ends
    follower.send(HELLO)
    follower.send(Ready(weights="a"))
    assert leader.receive(LONG) == HELLO
    frames, _ = start(leader)
    assert frames.get(timeout=LONG) == Ready(weights="a")


def test_a_host_that_closes_is_gone_at_once_and_knows_no_reason_itself(ends):
    leader, follower = ends
    _, reasons = start(leader)
    _, own = start(follower)
    follower.close()
    assert reasons.get(timeout=LONG) == "it closed the connection"
    assert follower.wait_end(LONG)
    assert own.empty()


def test_silence_ends_the_connection_with_its_length(ends):
    leader, _ = ends
    _, reasons = start(leader, silence=0.1)
    assert reasons.get(timeout=LONG) == "it has been silent for 0.1 s"


def test_what_is_no_frame_ends_the_connection(ends, sockets):
    leader, _ = ends
    _, reasons = start(leader)
    sockets[1].sendall((4).to_bytes(4, "big") + b"abcd")
    assert reasons.get(timeout=LONG)
    assert leader.wait_end(LONG)


def test_a_frame_to_a_host_that_is_gone_is_lost_without_an_error(ends):
    leader, follower = ends
    follower.close()
    for _ in range(3):
        leader.send(Beat())
