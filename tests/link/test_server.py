from __future__ import annotations

import errno
import socket
import threading
import time
from queue import Queue

import pytest

from server import threads
from server.link.frames import Abort, EngineInfo, Fatal, Pulse, Step, Submit, TokenEvent
from server.link.framing import api_codec
from server.link.sampling import SamplingParams
from server.link.server import LinkServer

INFO = EngineInfo(
    model="m", version="1", max_model_len=8, vocab_size=9, eos_token_ids=(2,), max_num_seqs=4
)
SUBMIT = Submit(
    request_id=1, prompt_token_ids=[1, 2, 3], params=SamplingParams(max_tokens=4), arrival=0.0
)


class RecordingInbox:
    """Keeps what arrived, in order, as (client, frame) and (client, None) for an end."""

    def __init__(self):
        self.arrived = Queue()

    def receive(self, client, frame):
        self.arrived.put((client, frame))

    def disconnect(self, client):
        self.arrived.put((client, None))

    def next(self):
        return self.arrived.get(timeout=10)


class Peer:
    """An API process's end, blocking."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(str(path))
        self.codec = api_codec()
        self.buffer = bytearray()
        self.frames = []

    def send(self, *frames):
        self.socket.sendall(b"".join(self.codec.encode(frame) for frame in frames))

    def next(self):
        while not self.frames:
            data = self.socket.recv(1 << 16)
            if not data:
                return None
            self.buffer += data
            self.frames = self.codec.feed(self.buffer)
        return self.frames.pop(0)

    def close(self):
        self.socket.close()


@pytest.fixture
def inbox():
    return RecordingInbox()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "engine.sock"


@pytest.fixture
def link(path, inbox):
    # Threads of a test before may still be ending.
    before = {*threading.enumerate()}
    server = LinkServer(path, inbox, max_queued_frames=16)
    server.start()
    yield server
    server.close(timeout=60)
    left = {*threading.enumerate()} - before
    assert not [thread for thread in left if thread.name.startswith("link-")]


@pytest.fixture
def connect(link, path):
    peers = []

    def connect_one():
        peers.append(Peer(path))
        return peers[-1]

    yield connect_one
    for peer in peers:
        peer.close()


def test_frames_arrive_in_order_with_the_number_of_their_client(connect, inbox):
    first, second = connect(), connect()
    first.send(SUBMIT, Abort(request_id=1))
    one = inbox.next()
    assert one[1] == SUBMIT
    assert inbox.next() == (one[0], Abort(request_id=1))
    second.send(SUBMIT)
    other = inbox.next()
    assert other[1] == SUBMIT
    assert other[0] != one[0]


def test_frames_go_to_their_client_only(connect, inbox, link):
    first, second = connect(), connect()
    second.send(Abort(request_id=1))
    inbox.next()
    first.send(SUBMIT)
    number, _ = inbox.next()
    step = Step(events=[TokenEvent(request_id=1, token_ids=[5])])
    link.send(number, step)
    link.broadcast(Fatal(message="gone"))
    assert first.next() == step
    assert first.next() == Fatal(message="gone")
    assert second.next() == Fatal(message="gone")


def test_an_announcement_reaches_early_and_late_connections_once(connect, inbox, link):
    early = connect()
    early.send(SUBMIT)
    inbox.next()
    link.announce(INFO)
    late = connect()
    late.send(SUBMIT)
    inbox.next()
    link.broadcast(Pulse(state="ready"))
    for peer in (early, late):
        assert peer.next() == INFO
        assert peer.next() == Pulse(state="ready")


def test_the_end_of_a_connection_comes_after_its_frames(connect, inbox):
    peer = connect()
    peer.send(*[SUBMIT] * 50)
    peer.close()
    arrived = [inbox.next()[1] for _ in range(51)]
    assert arrived == [SUBMIT] * 50 + [None]


def test_sending_to_a_client_that_is_gone_does_nothing(connect, inbox, link):
    peer = connect()
    peer.send(SUBMIT)
    number, _ = inbox.next()
    peer.close()
    assert inbox.next() == (number, None)
    link.send(number, INFO)


def test_what_is_no_frame_ends_that_connection_only(connect, inbox, caplog):
    broken, sound = connect(), connect()
    broken.socket.sendall(b"\0\0\0\1\xff")
    number, end = inbox.next()
    assert end is None
    sound.send(SUBMIT)
    other, frame = inbox.next()
    assert (other != number, frame) == (True, SUBMIT)
    assert "invalid frame" in caplog.text


def test_a_frame_too_large_ends_the_connection(connect, inbox, caplog):
    peer = connect()
    peer.socket.sendall(b"\xff\xff\xff\xff")
    assert inbox.next()[1] is None
    assert "exceeds" in caplog.text


def test_a_client_that_reads_nothing_is_cut_off_and_holds_nobody_up(connect, inbox, link, caplog):
    stuck, sound = connect(), connect()
    stuck.send(SUBMIT)
    number, _ = inbox.next()
    # Connected is not yet known: a frame shows that the server has taken it in.
    sound.send(SUBMIT)
    inbox.next()
    large = Pulse(state="ready", metrics=b"x" * 100_000)
    started = time.monotonic()
    for _ in range(40):
        link.send(number, large)
    assert time.monotonic() - started < 20
    assert inbox.next() == (number, None)
    assert "closing its connection" in caplog.text
    link.broadcast(Pulse(state="ready"))
    assert sound.next() == Pulse(state="ready")


def test_closing_writes_what_is_queued_first(connect, inbox, link):
    peer = connect()
    peer.send(SUBMIT)
    number, _ = inbox.next()
    steps = [Step(events=[TokenEvent(request_id=i)]) for i in range(10)]
    for step in steps:
        link.send(number, step)
    closing = threading.Thread(target=link.broadcast, args=(Fatal(message="bye"),))
    closing.start()
    closing.join()
    assert [peer.next() for _ in range(11)] == [*steps, Fatal(message="bye")]


def test_a_closed_server_is_gone_from_the_file_system(tmp_path, inbox):
    path = tmp_path / "other.sock"
    server = LinkServer(path, inbox)
    server.start()
    peer = Peer(path)
    peer.send(SUBMIT)
    number, _ = inbox.next()
    server.send(number, INFO)
    server.close(timeout=5)
    assert not path.exists()
    assert peer.next() == INFO
    assert peer.next() is None
    assert inbox.next() == (number, None)
    peer.close()


def test_closing_does_not_wait_for_a_client_that_reads_nothing(tmp_path, inbox):
    server = LinkServer(tmp_path / "other.sock", inbox)
    server.start()
    peer = Peer(tmp_path / "other.sock")
    peer.send(SUBMIT)
    number, _ = inbox.next()
    server.send(number, Pulse(state="ready", metrics=b"x" * 5_000_000))
    started = time.monotonic()
    server.close(timeout=0.05)
    assert time.monotonic() - started < 20
    peer.close()


def test_a_connection_whose_frame_fails_the_inbox_ends_and_is_reported(connect, inbox, link):
    """Or its sequences would keep their blocks for an API process that nobody hears."""
    link._inbox = FailingInbox(inbox)
    peer = connect()
    peer.send(SUBMIT)
    number, frame = inbox.next()
    assert frame is None
    assert peer.next() is None
    other = connect()
    other.send(Abort(request_id=1))
    assert inbox.next() == (number + 1, Abort(request_id=1))


def test_the_server_accepts_again_after_no_descriptor_was_left(link, connect, inbox, monkeypatch):
    monkeypatch.setattr(threads, "_PAUSE_SECONDS", 0.0)
    link._listener = ScarceListener(link._listener, num_failures=2)
    first = connect()  # Ends the accept() that waits already.
    first.send(SUBMIT)
    inbox.next()
    second = connect()
    second.send(SUBMIT)
    assert inbox.next()[1] == SUBMIT


class FailingInbox:
    """Fails on a Submit, and passes on everything else."""

    def __init__(self, inbox):
        self.inbox = inbox

    def receive(self, client, frame):
        if isinstance(frame, Submit):
            raise RuntimeError("nobody foresaw this")
        self.inbox.receive(client, frame)

    def disconnect(self, client):
        self.inbox.disconnect(client)


class ScarceListener:
    """A listener whose next accepts fail."""

    def __init__(self, listener, num_failures):
        self.listener, self.num_failures = listener, num_failures

    def accept(self):
        if self.num_failures:
            self.num_failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return self.listener.accept()

    def __getattr__(self, name):
        return getattr(self.listener, name)
