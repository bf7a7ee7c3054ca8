"""The engine's end of the socket to the API processes.

Each connection has one thread that reads and one that writes, so neither a slow reader nor a large
frame holds up the step loop: `send` only queues. A connection whose queue is full is cut off: its
API process is stuck, and its sequences must not keep blocks. Knows no meaning of a frame.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import threading
import time
from itertools import count
from pathlib import Path
from typing import Protocol

import msgspec

from server.link.frames import ToApi, ToEngine
from server.link.framing import engine_codec
from server.threads import guarded

# At 10 ms per step, this is ten seconds in which an API process read nothing.
MAX_QUEUED_FRAMES = 1024
# How long the end of a process waits for its last frames to be read.
FLUSH_SECONDS = 2.0
_RECEIVE_BYTES = 1 << 18

_log = logging.getLogger(__name__)


class Inbox(Protocol):
    """Receives the frames. Called from reader threads; must not block."""

    def receive(self, client: int, frame: ToEngine) -> None:
        """Take a frame from the connection numbered `client`."""

    def disconnect(self, client: int) -> None:
        """The connection is gone. This call comes after every frame of the connection."""


class _Connection:
    """One API process, with the frames that it has not been sent yet. None ends its queue."""

    def __init__(self, number: int, peer: socket.socket, max_queued_frames: int) -> None:
        self.number = number
        self._peer = peer
        self._codec = engine_codec()
        self._frames: queue.Queue[ToApi | None] = queue.Queue(max_queued_frames)
        self._is_closed = False

    def send(self, frame: ToApi | None) -> None:
        """Queue a frame. A connection whose queue is full is closed."""
        if self._is_closed:
            return
        try:
            self._frames.put_nowait(frame)
        except queue.Full:
            _log.error("an API process does not read its frames; closing its connection")
            self.close()

    def close(self) -> None:
        """End the connection now. Both threads notice."""
        self._is_closed = True
        with contextlib.suppress(OSError):  # The other end may have closed first.
            self._peer.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(queue.Full):  # A full queue wakes the writer anyway.
            self._frames.put_nowait(None)

    def write(self) -> None:
        """Writer thread: send the queue in as few calls as possible, until its end mark."""
        is_open = True
        while is_open:
            frames = self._take()
            is_open = frames[-1] is not None
            data = b"".join(self._codec.encode(frame) for frame in frames if frame is not None)
            try:
                self._peer.sendall(data)
            except OSError:
                return  # The reader notices the same end and reports it.
        self.close()

    def read(self, inbox: Inbox) -> None:
        """Reader thread: pass frames to the inbox until the connection ends."""
        buffer = bytearray()
        try:
            while data := self._peer.recv(_RECEIVE_BYTES):
                buffer += data
                for frame in self._codec.feed(buffer):
                    inbox.receive(self.number, frame)
        except OSError:
            return  # The process died and the connection was reset: this is a normal end.
        except (msgspec.MsgspecError, ValueError) as error:
            _log.error("an API process sent an invalid frame: %s", error)

    def release(self) -> None:
        self._peer.close()

    def _take(self) -> list[ToApi | None]:
        """Everything in the queue, at least one frame, up to the end mark."""
        frames = [self._frames.get()]
        while frames[-1] is not None and not self._frames.empty():
            frames.append(self._frames.get())
        return frames


class LinkServer:
    """Listens on a Unix socket, passes frames to the inbox and sends the engine's to their client.

    Any thread may call every method. Only `close` waits.
    """

    def __init__(
        self, path: Path, inbox: Inbox, *, max_queued_frames: int = MAX_QUEUED_FRAMES
    ) -> None:
        self._path = path
        self._inbox = inbox
        self._max_queued_frames = max_queued_frames
        self._numbers = count(1)
        self._greeting: ToApi | None = None
        self._connections: dict[int, _Connection] = {}
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._is_closed = False
        self._acceptor = guarded(self._accept, "link-accept")

    def start(self) -> None:
        """Start to listen."""
        self._listener.bind(str(self._path))
        self._listener.listen()
        self._acceptor.start()

    def send(self, client: int, frame: ToApi) -> None:
        """Queue a frame for one client; without effect if the client is gone."""
        if connection := self._connections.get(client):
            connection.send(frame)

    def broadcast(self, frame: ToApi) -> None:
        """Queue a frame for every client that is connected now."""
        for connection in self._snapshot():
            connection.send(frame)

    def announce(self, frame: ToApi) -> None:
        """Queue a frame for every client that is connected now or connects later."""
        with self._lock:
            self._greeting = frame
            connections = list(self._connections.values())
        for connection in connections:
            connection.send(frame)

    def close(self, timeout: float) -> None:
        """Stop listening, write the queues for at most `timeout` seconds, and disconnect."""
        self._is_closed = True
        self._listener.shutdown(socket.SHUT_RDWR)  # Wakes accept(); close() would not.
        self._acceptor.join()
        self._listener.close()
        self._path.unlink(missing_ok=True)
        connections = self._snapshot()
        for connection in connections:
            connection.send(None)
        self._join(timeout)
        for connection in connections:
            connection.close()
        self._join(timeout)

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                if self._is_closed:
                    return
                raise  # Such as no descriptor left: the guard has it try again.
            self._connect(_Connection(next(self._numbers), peer, self._max_queued_frames))

    def _connect(self, connection: _Connection) -> None:
        thread = guarded(
            lambda: self._serve(connection), "link-read", number=connection.number, goes_on=False
        )
        with self._lock:
            self._connections[connection.number] = connection
            # Only the dead leave: `close` waits for whoever still runs its last lines.
            self._threads = {thread, *filter(threading.Thread.is_alive, self._threads)}
            if self._greeting is not None:
                connection.send(self._greeting)
        thread.start()

    def _serve(self, connection: _Connection) -> None:
        """The life of one connection: this thread reads, and a second thread writes."""
        writer = guarded(
            connection.write,
            "link-write",
            number=connection.number,
            on_fault=lambda error: connection.close(),
            goes_on=False,
        )
        writer.start()
        try:
            connection.read(self._inbox)
        finally:
            self._end(connection, writer)

    def _end(self, connection: _Connection, writer: threading.Thread) -> None:
        connection.close()
        with self._lock:
            del self._connections[connection.number]
        self._inbox.disconnect(connection.number)
        writer.join()
        connection.release()

    def _snapshot(self) -> list[_Connection]:
        with self._lock:
            return list(self._connections.values())

    def _join(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
