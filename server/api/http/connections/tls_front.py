"""The TLS handshake of one HTTP connection, before HTTP begins.

The event loop could do it by itself, but would then show a connection to nobody until its handshake
is over: clients that begin handshakes and stop would hold sockets that no limit counts. Here a
connection counts from its first moment, and has as long as for a request's head.
Knows TLS and sockets, and nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import cast

from server.api.http.connections.open_connections import OpenConnections

_log = logging.getLogger(__name__)


class TlsFront(asyncio.Protocol):
    """`context` gives the newest; `inside` makes the protocol that speaks within TLS."""

    def __init__(
        self,
        context: Callable[[], ssl.SSLContext],
        inside: Callable[[], asyncio.Protocol],
        connections: OpenConnections,
        handshake_seconds: float,
    ) -> None:
        self._context, self._inside, self._connections = context, inside, connections
        self._handshake_seconds = handshake_seconds
        self._transport: asyncio.Transport | None = None
        self._handshake: asyncio.Task[None] | None = None
        # What the client sent right behind its handshake.
        self._early = b""
        self._is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, not a check: uvloop's transports are none of asyncio's by inheritance.
        self._transport = cast(asyncio.Transport, transport)
        self._connections.enter(self)
        # An eager task hands the transport to TLS before this call returns. A plain task would do
        # so in the loop's next turn; uvloop ignores a pause here, and could read in between.
        loop = asyncio.get_running_loop()
        handshake = self._shake_hands(self._transport)
        self._handshake = asyncio.Task(handshake, loop=loop, eager_start=True)

    def data_received(self, data: bytes) -> None:
        self._early += data

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        self._connections.leave(self)

    def close_at_once(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def _shake_hands(self, transport: asyncio.Transport) -> None:
        try:
            secured = await asyncio.get_running_loop().start_tls(
                transport,
                self,
                self._context(),
                server_side=True,
                ssl_handshake_timeout=self._handshake_seconds,
            )
        except OSError as error:  # It includes what TLS refuses, and handshakes that take too long.
            _log.debug("a TLS handshake failed: %s", error)
            secured = None
        finally:
            self._connections.leave(self)
        if secured is None:
            transport.abort()
        # A transport that ended during the handshake ends the wait for it too, without an error:
        # a connection made of it would be one of the open connections for ever.
        elif not (self._is_lost or transport.is_closing()):
            self._hand_over(secured)

    def _hand_over(self, secured: asyncio.Transport) -> None:
        inside = self._inside()
        secured.set_protocol(inside)
        inside.connection_made(secured)
        if self._early:
            inside.data_received(self._early)
