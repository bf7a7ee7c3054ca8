"""One HTTP connection: uvicorn's protocol over a transport that joins writes.

uvicorn writes the head of a response and its body by two calls. If the process is killed between
them, a proxy has passed the head on, can no longer retry the request, and the client gets half an
answer. So everything that is written in one turn of the event loop leaves in one system call.
Knows nothing of the application.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class HttpConnection(HttpToolsProtocol):
    """uvicorn's connection, whose responses leave whole."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        joined = JoinedWrites(transport, self.loop)
        super().connection_made(cast(asyncio.Transport, joined))


class JoinedWrites:
    """A transport that holds what is written until the event loop's next turn."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        held, self._held = self._held, []
        # A client that left meanwhile has closed the transport, and uvloop refuses to write to it.
        if held and not self._transport.is_closing():
            self._transport.write(b"".join(held))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
