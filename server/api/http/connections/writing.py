"""What one HTTP connection writes: responses, refusals, and how their pieces leave.

uvicorn writes the head of a response and its body by two calls. If the process is killed between
them, a proxy has passed the head on, can no longer retry the request, and the client gets half an
answer. So everything that is written in one turn of the event loop leaves in one system call.
Knows neither requests nor deadlines.
"""

from __future__ import annotations

import asyncio
import operator
import struct
import uuid
from collections.abc import Callable
from typing import Any, Protocol

from starlette.exceptions import HTTPException
from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from server.api.http.connections.request_reader import Http2Error, RefusedRequestError
from server.api.http.errors.error_responses import error_json, error_response
from server.errors import ApiError, ErrorKind

# Of HTTP/2: the types of two frames, and a reason for the end (RFC 9113, 6 and 7).
_SETTINGS, _GOAWAY, _HTTP_1_1_REQUIRED = 0x4, 0x7, 0xD
# The extension of ASGI by which a server writes parts of a body at once.
PARTS = "antipode.parts"


class Parts(Protocol):
    """Writes parts of a body that has begun: what middleware need not see, and nobody waits for."""

    @property
    def can_write_part(self) -> bool:
        """Whether the client has read enough for another part."""

    def write_part(self, part: bytes) -> None:
        """Write some bytes."""


class Exchange(RequestResponseCycle):
    """uvicorn's writer of one response, with HTTP/1.0's framing and for bodies not read whole."""

    refused: RefusedRequestError | None = None

    def refuse(self, error: RefusedRequestError) -> None:
        """Have the application meet `error` where it reads the body, and answer with it.

        So the answer has the shape of its protocol, and the log the answer's status.
        """
        self.refused = error
        self.message_event.set()

    async def receive(self) -> ASGIReceiveEvent:
        message = await super().receive()
        if self.refused is not None and message["type"] == "http.request":
            # Awaiting the rest again would be for ever.
            self.message_event.set()
            raise HTTPException(self.refused.status, self.refused.message, _closing(self.refused))
        return message

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] == "http.response.start":
            # The rest of the body would have to be read before the next request.
            self.keep_alive = self.keep_alive and not self.more_body
            if self.scope["http_version"] == "1.0":
                self.chunked_encoding = False
        elif self.scope["http_version"] == "1.0" and message["type"] == "http.response.body":
            # HTTP/1.0 has no chunks: the end of the connection is the end of the body.
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)

    @property
    def can_write_part(self) -> bool:
        """Whether the client has read enough for another part of the body."""
        return not self.flow.write_paused

    def write_part(self, part: bytes) -> None:
        """Write a part of a body that has begun and goes on. It has a byte at least.

        It is what `send` does with such a part, without what waits and what looks at every message.
        """
        if not self.disconnected:
            framed = b"%x\r\n%b\r\n" % (len(part), part)
            self.transport.write(framed if self.chunked_encoding else part)

    async def send_500_response(self) -> None:
        """The answer where the application gave none, because it failed or was cancelled."""
        fault = ApiError(ErrorKind.INTERNAL, "the server failed to handle this request")
        response = error_response(fault, connection="close")
        if self.refused is not None:
            response = error_response(self.refused, self.refused.status, **_closing(self.refused))
        response.headers["x-request-id"] = uuid.uuid4().hex
        exchange: Any = self
        await response(exchange.scope, exchange.receive, exchange.send)


class JoinedWrites:
    """A transport that holds what is written until the event loop's next turn."""

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        close: Callable[[asyncio.Transport], None] = operator.methodcaller("close"),
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._close = close
        self._held: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)

    def close(self) -> None:
        self._flush()
        self._close(self._transport)

    def _flush(self) -> None:
        held, self._held = self._held, []
        # uvloop refuses to write where the client is gone already.
        if held and not self._transport.is_closing():
            self._transport.write(b"".join(held))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def _closing(error: RefusedRequestError) -> dict[str, str]:
    """The headers of an answer to a request whose rest nobody reads."""
    headers = {"connection": "close"}
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    return headers


def goodbye(error: Http2Error) -> bytes:
    """The settings and the end of an HTTP/2 connection, in frames (RFC 9113, 6.5 and 6.8)."""
    reason = struct.pack(">II", 0, _HTTP_1_1_REQUIRED) + error.message.encode()
    return _frame(_SETTINGS, b"") + _frame(_GOAWAY, reason)


def _frame(kind: int, payload: bytes) -> bytes:
    """A frame of the whole connection, without flags (RFC 9113, 4.1)."""
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, 0, 0) + payload


def refusal(error: RefusedRequestError, default_headers: list[tuple[bytes, bytes]]) -> bytes:
    """A whole response that reports `error`."""
    if isinstance(error, Http2Error):
        return goodbye(error)
    body = error_json(error)
    headers = [
        *default_headers,
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", uuid.uuid4().hex.encode()),
        (b"connection", b"close"),
    ]
    if error.retry_after is not None:
        headers.append((b"retry-after", str(error.retry_after).encode()))
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
    return STATUS_LINE[error.status] + lines + b"\r\n" + body
