"""Bodies that clients compress: gzip and deflate are read, others refused with what is accepted.

A few bytes can become gigabytes, so the text is made piece by piece and only up to the limit of
plain bodies. Other bytes become nothing at all, so the event loop has its turn after each piece of
what came, too. zstd is refused: Python 3.12 has no decoder of it. Knows ASGI, but not what a body
says.
"""

from __future__ import annotations

import asyncio
import zlib

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.http.errors.error_responses import error_response
from server.errors import ApiError, ErrorKind

ACCEPTED = "gzip, deflate"
_NAMES = frozenset({"gzip", "x-gzip", "deflate"})
_UNSUPPORTED_MEDIA_TYPE = 415
# The most that one call of zlib makes, and the most that it takes: about a millisecond's work.
_PIECE_BYTES = 1 << 18
_TAKEN_BYTES = 1 << 14
# gzip's tools write one member, or one for each 64 KiB. Each costs a decoder, though it be empty.
MAX_MEMBERS = 1024
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
        self._num_members = 0
        self._waiting = memoryview(b"")
        self._holds_more = False
        self._is_last = False
        self._has_ended = False

    async def receive(self) -> Message:
        while not self._has_ended:
            if self._waiting or self._holds_more:
                # One piece in each turn of the event loop: others go on between them.
                await asyncio.sleep(0)
                if piece := self._next_piece():
                    return {"type": "http.request", "body": piece, "more_body": True}
            elif self._is_last:
                self._check_end()
                self._has_ended = True
                return {"type": "http.request", "body": b"", "more_body": False}
            else:
                message = await self._receive()
                if message["type"] != "http.request":
                    return message
                self._is_last = not message.get("more_body", False)
                self._waiting = memoryview(message.get("body", b""))
        return await self._receive()

    def _next_piece(self) -> bytes:
        """What the next bytes become, b"" for nothing. HTTPException for a bad body."""
        taken = self._waiting[:_TAKEN_BYTES]
        decoder = self._decoder_for(taken)
        try:
            piece = decoder.decompress(taken, _PIECE_BYTES)
        except zlib.error:
            raise self._damaged() from None
        num_left = len(decoder.unused_data if decoder.eof else decoder.unconsumed_tail)
        self._waiting = self._waiting[len(taken) - num_left :]
        self._holds_more = len(piece) == _PIECE_BYTES and not decoder.eof
        self._num_bytes_left -= len(piece)
        if self._num_bytes_left < 0:
            sentence = f"the body must have at most {self._max_bytes} bytes, also uncompressed"
            raise HTTPException(413, sentence, {"connection": "close"})
        return piece

    def _decoder_for(self, data: memoryview) -> zlib._Decompress:
        """A body may be several compressed ones, one after another; `data` comes next."""
        if self._decoder is None or self._decoder.eof:
            self._num_members += 1
            if self._num_members > MAX_MEMBERS:
                sentence = f"a compressed body must have at most {MAX_MEMBERS} members"
                raise HTTPException(400, sentence, {"connection": "close"})
            self._decoder = zlib.decompressobj(self._window_bits(data[0]))
        return self._decoder

    def _check_end(self) -> None:
        if self._decoder is not None and not self._decoder.eof:
            raise self._damaged()

    def _window_bits(self, first: int) -> int:
        """Some clients send deflate without its header."""
        has_header = first & 0x0F == zlib.DEFLATED
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
