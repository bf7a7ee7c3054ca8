"""Bodies that clients compress: gzip and deflate are read, others refused with what is accepted.

A few bytes can become gigabytes, so the text is made piece by piece and only up to the limit of
plain bodies. zstd is refused: Python 3.12 has no decoder of it. Knows ASGI, but not what a body
says.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.http.errors.error_responses import error_response
from server.errors import ApiError, ErrorKind

ACCEPTED = "gzip, deflate"
_NAMES = frozenset({"gzip", "x-gzip", "deflate"})
_UNSUPPORTED_MEDIA_TYPE = 415
_PIECE_BYTES = 1 << 18
# For zlib: a gzip or zlib header, whichever is there; no header.
_ANY_HEADER, _NO_HEADER = zlib.MAX_WBITS + 32, -zlib.MAX_WBITS


class EncodingMiddleware:
    """Gives the application plain bodies of at most `max_body_bytes`."""

    def __init__(self, app: ASGIApp, *, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        encoding = ""
        if scope["type"] == "http":
            encoding = Headers(scope=scope).get("content-encoding", "").strip().lower()
        if encoding in ("", "identity"):
            await self._app(scope, receive, send)
        elif encoding in _NAMES:
            inflated = _Inflated(receive, encoding, self._max_body_bytes)
            await self._app(_plain(scope), inflated.receive, send)
        else:
            response = error_response(
                ApiError(
                    ErrorKind.INVALID_REQUEST,
                    f"bodies with this Content-Encoding cannot be read; send {ACCEPTED} or none",
                ),
                _UNSUPPORTED_MEDIA_TYPE,
                **{"accept-encoding": ACCEPTED},
            )
            await response(scope, receive, send)


class _Inflated:
    """The messages of one request, with its body inflated."""

    def __init__(self, receive: Receive, encoding: str, max_bytes: int) -> None:
        self._receive = receive
        self._encoding = encoding
        self._num_bytes_left = max_bytes
        self._max_bytes = max_bytes
        self._decoder: zlib._Decompress | None = None
        self._pieces: Iterator[bytes] = iter(())
        self._is_last = False
        self._has_ended = False

    async def receive(self) -> Message:
        while not self._has_ended:
            if piece := self._next_piece():
                # One piece in each turn of the event loop: others go on between them.
                await asyncio.sleep(0)
                return {"type": "http.request", "body": piece, "more_body": True}
            if self._is_last:
                self._has_ended = True
                return {"type": "http.request", "body": b"", "more_body": False}
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            self._is_last = not message.get("more_body", False)
            self._pieces = self._inflate(message.get("body", b""))
        return await self._receive()

    def _next_piece(self) -> bytes:
        """The next bytes, b"" if more must be received first. HTTPException for a bad body."""
        try:
            piece = next(self._pieces, b"")
        except zlib.error:
            raise self._damaged() from None
        self._num_bytes_left -= len(piece)
        if self._num_bytes_left < 0:
            sentence = f"the body must have at most {self._max_bytes} bytes, also uncompressed"
            raise HTTPException(413, sentence, {"connection": "close"})
        if not piece and self._is_last and self._decoder is not None and not self._decoder.eof:
            raise self._damaged()
        return piece

    def _inflate(self, data: bytes) -> Iterator[bytes]:
        """The bytes that `data` adds. A body may be several compressed ones, one after another."""
        while data:
            if self._decoder is None or self._decoder.eof:
                self._decoder = zlib.decompressobj(self._window_bits(data))
            while (piece := self._decoder.decompress(data, _PIECE_BYTES)) or (
                self._decoder.unconsumed_tail and not self._decoder.eof
            ):
                yield piece
                data = self._decoder.unconsumed_tail
            data = self._decoder.unused_data if self._decoder.eof else b""

    def _window_bits(self, data: bytes) -> int:
        """Some clients send deflate without its header."""
        has_header = data[0] & 0x0F == zlib.DEFLATED
        return _NO_HEADER if self._encoding == "deflate" and not has_header else _ANY_HEADER

    def _damaged(self) -> HTTPException:
        return HTTPException(400, f"the body is not valid {self._encoding}")


def _plain(scope: Scope) -> Scope:
    """The request as if its body had not been compressed."""
    plain = {**scope, "headers": list(scope["headers"])}
    headers = MutableHeaders(scope=plain)
    del headers["content-encoding"]
    del headers["content-length"]
    return plain
