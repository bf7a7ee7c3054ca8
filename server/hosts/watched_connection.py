"""One connection between two hosts: sends and receives frames, and reports the loss of the peer.

Before `start`, the caller sends and waits for answers. After `start`, a thread reads, and each side
sends `Beat` all the time. Silence then means that the other host hangs, was cut off or lost its
machine; a process that dies closes its connection at once. The processes that listen and
follow end on a loss. Only bytes that the seals have opened are decoded. Knows no frame but `Beat`.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

import msgspec

from server.hosts.authentication import Seals
from server.hosts.messages import Beat
from server.link.framing import Codec
from server.threads import guarded

_RECEIVE_BYTES = 1 << 18
_BEATS_PER_SILENCE = 8


class Connection[Sent, Received]:
    """`codec` and `seals` are those of this end. Any thread may send frames."""

    def __init__(
        self, peer: socket.socket, codec: Codec[Sent | Beat, Received | Beat], seals: Seals
    ) -> None:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The timeouts of the handshake end here: a frame may be sent before any is waited for.
        peer.settimeout(None)
        self._peer, self._codec, self._seals = peer, codec, seals
        self._sealed, self._buffer = bytearray(), bytearray()
        self._received: list[Received] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._is_closing = False

    @property
    def peer_address(self) -> str:
        """The other host's address on this connection."""
        return str(self._peer.getpeername()[0])

    @property
    def own_address(self) -> str:
        """This host's address on this connection."""
        return str(self._peer.getsockname()[0])

    def send(self, frame: Sent | Beat) -> None:
        """Send a frame. If sending fails, the connection ends, and its reader reports the end."""
        with self._lock, contextlib.suppress(OSError):
            try:
                self._peer.sendall(self._seals.seal(self._codec.encode(frame)))
            except OSError:
                # A part of the frame may have been sent, so no other frame can follow.
                self._peer.shutdown(socket.SHUT_RDWR)

    def receive(self, timeout: float) -> Received:
        """Wait for the next frame, before `start`. Raises OSError or ValueError if none comes."""
        self._peer.settimeout(timeout)
        while not self._received:
            self._received += self._read()
        return self._received.pop(0)

    def start(
        self, silence: float, on_frame: Callable[[Received], None], on_end: Callable[[str], None]
    ) -> None:
        """Read and send beats from now on.

        The connection ends when the peer sends nothing or takes nothing for `silence` seconds. The
        reading thread calls both functions. It calls `on_end` once with the reason, but not after
        `close`.
        """
        self._peer.settimeout(silence)
        guarded(
            lambda: self._pass_on(silence, on_frame, on_end),
            "host-read",
            on_fault=lambda error: self._end(f"its frame could not be taken: {error!r}", on_end),
            goes_on=False,
        ).start()
        guarded(lambda: self._beat(silence), "host-beat").start()

    def wait_end(self, timeout: float) -> bool:
        """Wait until the peer has closed; False if that took more than `timeout` seconds."""
        return self._ended.wait(timeout)

    def close(self) -> None:
        """Close the connection; the peer notices at once."""
        self._is_closing = True
        with contextlib.suppress(OSError):
            self._peer.shutdown(socket.SHUT_RDWR)
        self._peer.close()

    def _read(self) -> list[Received]:
        """The next frames without beats; may be empty."""
        data = self._peer.recv(_RECEIVE_BYTES)
        if not data:
            raise ConnectionError("it closed the connection")
        self._sealed += data
        self._buffer += self._seals.open(self._sealed)
        return [frame for frame in self._codec.feed(self._buffer) if not isinstance(frame, Beat)]

    def _pass_on(
        self, silence: float, on_frame: Callable[[Received], None], on_end: Callable[[str], None]
    ) -> None:
        frames, self._received = self._received, []
        reason = ""
        while not reason:
            for frame in frames:
                on_frame(frame)
            try:
                frames = self._read()
            except TimeoutError:
                reason = f"it has been silent for {silence:g} s"
            except (OSError, msgspec.MsgspecError, ValueError) as error:
                reason = str(error)
        self._end(reason, on_end)

    def _end(self, reason: str, on_end: Callable[[str], None]) -> None:
        self._ended.set()
        if not self._is_closing:
            on_end(reason)
        self.close()

    def _beat(self, silence: float) -> None:
        while not self._ended.wait(silence / _BEATS_PER_SILENCE):
            self.send(Beat())
