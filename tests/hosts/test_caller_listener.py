"""The leader's listener, with callers that are hosts and callers that are none."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from server.hosts import caller_listener
from server.hosts.caller_listener import MAX_CALLERS, CallerListener
from server.hosts.handshake import admit, enter

SECRET = b"the secret of this group"
NOT_OURS = "not from a host of this slice"


@pytest.fixture
def listener():
    return socket.create_server(("127.0.0.1", 0), backlog=4 * MAX_CALLERS)


@pytest.fixture
def call(listener):
    """Connect to the listener; all connections are closed at the end."""
    address, made = listener.getsockname(), []

    def connect():
        made.append(socket.create_connection(address))
        return made[-1]

    yield connect
    for peer in made:
        peer.close()


def is_closed(peer):
    peer.settimeout(60)
    try:
        while peer.recv(1 << 12):
            pass
    except ConnectionResetError:
        pass
    return True


@pytest.mark.parametrize("count", [50, 3 * MAX_CALLERS])
def test_a_host_comes_in_at_once_past_any_number_of_silent_callers(
    monkeypatch, listener, call, count
):
    # For so long that one who waits for a silent caller shows on any machine.
    monkeypatch.setattr(caller_listener, "admit", partial(admit, timeout=120))
    with CallerListener(listener, SECRET) as callers:
        silent = [call() for _ in range(count)]
        since = time.monotonic()
        enter(call(), SECRET, 2, "same")
        caller = callers.next_caller(60)
        assert time.monotonic() - since < 60
        assert caller.admitted.index == 2
        caller.peer.close()
    assert all(map(is_closed, silent))


def test_the_oldest_caller_has_to_go_when_there_are_too_many(listener, call):
    with CallerListener(listener, SECRET):
        callers = [call() for _ in range(MAX_CALLERS + 1)]
        assert is_closed(callers[0])
        callers[-1].setblocking(False)
        time.sleep(0.1)
        assert callers[-1].recv(1 << 12)
        with pytest.raises(BlockingIOError):
            callers[-1].recv(1)


def test_many_false_callers_give_two_lines_and_their_number(listener, call, caplog):
    with CallerListener(listener, SECRET) as callers:
        for _ in range(20):
            peer = call()
            peer.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert is_closed(peer)
        assert callers.next_caller(0) is None
    lines = [line for line in caplog.messages if NOT_OURS in line]
    assert ["(1 since" in lines[0], "(19 since" in lines[1]] == [True, True]
    assert len(lines) == 2


def test_nothing_listens_and_no_host_is_left_waiting_after_the_door_is_closed(listener, call):
    with CallerListener(listener, SECRET), ThreadPoolExecutor(1) as pool:
        waiting = call()
        pool.submit(enter, waiting, SECRET, 1, "same").result()
    assert is_closed(waiting)
    with pytest.raises(ConnectionRefusedError):
        call()
