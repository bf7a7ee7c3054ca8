"""One end of a connection between two hosts, with the other end in the test's hands."""

from __future__ import annotations

import socket
from queue import Queue

from server.hosts.connection import Connection
from server.hosts.messages import Beat, follower_codec


def test_a_frame_that_cannot_be_taken_ends_the_connection_with_the_reason():
    """A thread that ended here unnoticed would leave both hosts waiting for each other."""
    ends = Queue()
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = socket.create_connection(server.getsockname())
        here, _ = server.accept()
    leader = Connection(here, follower_codec())

    def fail(frame):
        raise RuntimeError("nobody foresaw this")

    leader._received.append(Beat())
    with there:
        leader.start(5.0, fail, ends.put)
        reason = ends.get(timeout=10)
    assert reason == "its frame could not be taken: RuntimeError('nobody foresaw this')"
