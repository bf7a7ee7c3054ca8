"""One connection between two hosts: frames both ways, and how it ends."""

from __future__ import annotations

import socket
from queue import Queue

import pytest

from server.hosts.authentication import Greeting
from server.hosts.messages import Beat, Facts, Ready, follower_codec, leader_codec
from server.hosts.watched_connection import Connection

GREETING = Greeting(leader_nonce=b"l" * 32, follower_nonce=b"f" * 32, index=1, software="same")
FACTS = Facts(chip_bytes=8)
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
    leader = Connection(sockets[0], leader_codec(), GREETING.seals(b"secret", "leader"))
    follower = Connection(sockets[1], follower_codec(), GREETING.seals(b"secret", "follower"))
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
    follower.send(FACTS)
    assert leader.receive(LONG) == FACTS
    assert leader.peer_address == "127.0.0.1"


def test_what_came_before_the_start_is_not_lost(ends):
    leader, follower = ends
    follower.send(FACTS)
    follower.send(Ready(weights="a"))
    assert leader.receive(LONG) == FACTS
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


@pytest.mark.parametrize(
    "foreign",
    [
        b"\x00",
        (4).to_bytes(4, "big") + b"abcd",
        (1 << 31).to_bytes(4, "big"),
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
    ids=["a byte", "a frame without a tag", "a huge frame", "HTTP"],
)
def test_bytes_of_someone_else_end_the_connection_before_they_are_decoded(ends, sockets, foreign):
    leader, follower = ends
    frames, reasons = start(leader)
    sockets[1].sendall(foreign)
    follower.send(FACTS)
    assert reasons.get(timeout=LONG).startswith("bytes arrived that it did not send")
    assert leader.wait_end(LONG)
    assert frames.empty()


class Tapped:
    """A socket that keeps what is sent instead of sending it."""

    def __init__(self):
        self.sent = []

    def setsockopt(self, *_):
        pass

    def settimeout(self, _):
        pass

    def sendall(self, data):
        self.sent.append(data)


def sealed(*frames, role="follower", secret=b"secret"):
    """What a host writes to its socket for these frames."""
    tapped = Tapped()
    codec = follower_codec() if role == "follower" else leader_codec()
    line = Connection(tapped, codec, GREETING.seals(secret, role))
    for frame in frames:
        line.send(frame)
    return tapped.sent


ONE, TWO = sealed(Ready(weights="1"), Ready(weights="2"))


@pytest.mark.parametrize(
    ("written", "taken"),
    [
        ([ONE, ONE], ["1"]),
        ([TWO, ONE], []),
        ([TWO], []),
        ([ONE[:-1] + bytes([ONE[-1] ^ 1]), TWO], []),
        ([ONE[:22] + bytes([ONE[22] ^ 1]) + ONE[23:], TWO], []),
        (sealed(Ready(weights="1"), secret=b"another"), []),
        (sealed(Beat(), Beat(), role="leader"), []),
    ],
    ids=["replayed", "reordered", "left out", "tag", "data", "another key", "reflected"],
)
@pytest.mark.parametrize("is_started", [True, False], ids=["started", "not started"])
def test_frames_that_are_not_the_next_of_the_other_host_end_the_connection(
    ends, sockets, written, taken, is_started
):
    leader, _ = ends
    sockets[1].sendall(b"".join(written))
    if is_started:
        frames, reasons = start(leader)
        assert reasons.get(timeout=LONG).startswith("bytes arrived that it did not send")
        # What came with the false bytes may be lost: the connection ends.
        assert [frames.get().weights for _ in range(frames.qsize())] in ([], taken)
    else:
        with pytest.raises(ValueError, match="bytes arrived that it did not send"):
            leader.receive(LONG)


def test_a_frame_to_a_host_that_is_gone_is_lost_without_an_error(ends):
    leader, follower = ends
    follower.close()
    for _ in range(3):
        leader.send(Beat())


def test_a_frame_that_cannot_be_taken_ends_the_connection_with_the_reason(ends):
    """A thread that ended here unnoticed would leave both hosts waiting for each other."""
    leader, follower = ends
    reasons = Queue()

    def fail(frame):
        raise RuntimeError("nobody foresaw this")

    leader.start(LONG, fail, reasons.put)
    follower.send(FACTS)
    expected = "its frame could not be taken: RuntimeError('nobody foresaw this')"
    assert reasons.get(timeout=LONG) == expected
