"""Where followers come in: accepts callers, has each prove itself, and hands on those that did.

Callers are heard at the same time, each for a few seconds, so a silent or false caller delays
nobody. The number of callers is bounded: when too many have proved nothing, the oldest has to go.
Knows nothing of what is said after the proofs.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import threading
import time
from dataclasses import dataclass

from server.hosts.handshake import Admitted, HandshakeError, admit

MAX_CALLERS = 64
# Seconds between two looks at whether the door is to close, and after a failed accept.
_LOOK_SECONDS = 0.05
_LOG_SECONDS = 10.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """A host that has the group's secret, and the connection to it."""

    peer: socket.socket
    admitted: Admitted


class CallerListener:
    """Open inside `with`. Takes over `listener`; afterwards nothing listens there."""

    def __init__(self, listener: socket.socket, secret: bytes) -> None:
        self._listener, self._secret = listener, secret
        self._callers: queue.SimpleQueue[Caller] = queue.SimpleQueue()
        self._unproved: dict[socket.socket, None] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._accepting = threading.Thread(target=self._accept_all, name="door", daemon=True)
        self._refusals = Refusals()

    def __enter__(self) -> CallerListener:
        self._listener.settimeout(_LOOK_SECONDS)
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Turn away everyone who was not handed on."""
        self._closing.set()
        self._accepting.join()
        with self._lock:
            unproved, self._unproved = self._unproved, {}
        for peer in unproved:
            _hang_up(peer)
        while (caller := self.next_caller(0.0)) is not None:
            caller.peer.close()
        self._refusals.flush()

    def next_caller(self, timeout: float) -> Caller | None:
        """The next host that has proved itself; None if none does within `timeout` seconds."""
        try:
            return self._callers.get(timeout=max(0.0, timeout))
        except queue.Empty:
            return None

    def turn_away(self, peer: socket.socket, why: str) -> None:
        """Close a caller's connection, and log it, but not every time."""
        self._refusals.add(f"{_address(peer)}: {why}")
        peer.close()

    def _accept_all(self) -> None:
        with self._listener:
            while not self._closing.is_set():
                try:
                    peer, _ = self._listener.accept()
                except TimeoutError:
                    continue
                except OSError as error:  # Such as no file descriptor left: it may pass.
                    self._refusals.add(f"it could not be accepted: {error}")
                    self._closing.wait(_LOOK_SECONDS)
                    continue
                self._make_room(peer)
                self._start_hearing(peer)

    def _make_room(self, peer: socket.socket) -> None:
        with self._lock:
            if len(self._unproved) >= MAX_CALLERS:
                oldest = next(iter(self._unproved))
                del self._unproved[oldest]
                _hang_up(oldest)
            self._unproved[peer] = None

    def _start_hearing(self, peer: socket.socket) -> None:
        hearing = threading.Thread(target=self._hear, args=(peer,), name="caller", daemon=True)
        try:
            hearing.start()
        except RuntimeError as error:  # No thread is left: it may pass.
            self._forget(peer)
            self.turn_away(peer, str(error))

    def _hear(self, peer: socket.socket) -> None:
        try:
            caller = Caller(peer, admit(peer, self._secret))
        except HandshakeError as error:
            why = str(error) if self._forget(peer) else "too many others came after it"
            self.turn_away(peer, why)
            return
        with self._lock:
            # The door may have closed meanwhile: then nobody takes callers off the queue.
            if self._unproved.pop(peer, peer) is None:
                self._callers.put(caller)
                return
        peer.close()

    def _forget(self, peer: socket.socket) -> bool:
        """True if `peer` was still wanted."""
        with self._lock:
            return self._unproved.pop(peer, peer) is None


class Refusals:
    """Logs refused callers: the first at once, later ones at most every few seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count, self._last, self._next_log = 0, "", 0.0

    def add(self, what: str) -> None:
        with self._lock:
            self._count += 1
            self._last = what
            if time.monotonic() >= self._next_log:
                self._log_now()

    def flush(self) -> None:
        """Log those that were not logged yet."""
        with self._lock:
            if self._count:
                self._log_now()

    def _log_now(self) -> None:
        _log.warning(
            "closed a connection that is not from a host of this slice (%d since the last such "
            "line); the last: %s",
            self._count,
            self._last,
        )
        self._count, self._next_log = 0, time.monotonic() + _LOG_SECONDS


def _address(peer: socket.socket) -> str:
    try:
        return str(peer.getpeername()[0])
    except OSError:
        return "an address that is gone"


def _hang_up(peer: socket.socket) -> None:
    """Wake the thread that hears `peer`; that thread closes the socket."""
    with contextlib.suppress(OSError):
        peer.shutdown(socket.SHUT_RDWR)
