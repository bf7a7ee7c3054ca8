"""Bytes of a connection → requests, or the refusal of what is no request.

h11 parses each head and body; a body's end is known before anything after it is looked at. This
module refuses what h11 would repair and what two parsers could read in two ways: lines that end
without CR, folded headers, two lengths, a length next to chunks. It also refuses chunks that cost
more than their bytes, and those that will be too long. Knows neither sockets nor time.
"""

from __future__ import annotations

import re
from typing import Any

import h11

from server.errors import ApiError, ErrorKind

MAX_HEADERS = 100
# A chunk costs as much as a kilobyte. So many pieces of a body are free, and one for each so many
# bytes of it.
FREE_PIECES = 10_000
MIN_PIECE_BYTES = 256

type Event = h11.Request | h11.Data | h11.EndOfMessage

_HEAD_END = re.compile(rb"\r?\n\r?\n")
_BAD_LINE = re.compile(rb"(?<!\r)\n|\r(?!\n)|\n[ \t]")
_LENGTH = re.compile(rb"\n(content-length|transfer-encoding):([^\r]*)", re.IGNORECASE)
_QUOTATION = re.compile(r":? (?:bytearray\()?b['\"].*", re.DOTALL)
_METHOD_BEGIN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]")
_ORIGIN = re.compile(rb"\norigin:[ \t]*([^\r\n]*)", re.IGNORECASE)
_HTTP_2_PREFACE = b"PRI * HTTP/2"
_ABSOLUTE = re.compile(rb"https?://[^/?#]+", re.IGNORECASE)
_CONTENT_TOO_LARGE = 413
_HEADERS_TOO_LARGE = 431
_NOT_IMPLEMENTED = 501
_VERSION_NOT_SUPPORTED = 505
# A parser gets no more at once: what it leaves, behind the end of a request, is copied.
_SLICE_BYTES = 1 << 14


class RefusedRequestError(ApiError):
    """A request that cannot be read. The connection ends after this answer."""

    def __init__(
        self, message: str, status: int = 400, kind: ErrorKind = ErrorKind.INVALID_REQUEST
    ) -> None:
        super().__init__(kind, message)
        self.status = status


class Http2Error(RefusedRequestError):
    """The client began with HTTP/2's preface: it reads HTTP/2's frames, and no answer of 1.1."""

    def __init__(self) -> None:
        super().__init__(
            "this port speaks HTTP/1.1 only; gRPC has a port of its own", _VERSION_NOT_SUPPORTED
        )


class RequestReader:
    """The requests of one connection, in order. `next_event` after each `feed` until it is None."""

    def __init__(self, *, max_header_bytes: int, max_body_bytes: int) -> None:
        self._max_header_bytes = max_header_bytes
        self._max_body_bytes = max_body_bytes
        # It begins with the `_num_fed` bytes that the parser has got last.
        self._waiting = bytearray()
        self._num_fed = 0
        self._searched = 0
        self._head = b""
        self._parser: h11.Connection | None = None
        self._is_chunked = False
        self._num_pieces = self._num_body_bytes = 0

    @property
    def is_between_requests(self) -> bool:
        """Whether everything that came belongs to requests that were read whole."""
        return self._parser is None and not self._waiting

    @property
    def num_waiting_bytes(self) -> int:
        """Bytes that came and that `next_event` has not reached."""
        return len(self._waiting) - self._num_fed

    @property
    def origin(self) -> str:
        """The web origin that the request names, as far as its head can be read; "" without one."""
        head = bytes(self._waiting) if self._parser is None else self._head
        found = _ORIGIN.search(head[: self._max_header_bytes].partition(b"\r\n\r\n")[0])
        return found[1].decode("latin-1").strip() if found else ""

    def feed(self, data: bytes) -> None:
        self._waiting += data

    def next_event(self) -> Event | None:
        """The next piece of a request; None until more bytes come. Raises RefusedRequestError."""
        if self._parser is None and not self._begin():
            return None
        assert self._parser is not None
        try:
            event = self._parser.next_event()
            while event is h11.NEED_DATA and self.num_waiting_bytes:
                self._feed_parser(self._parser, self._num_fed + _SLICE_BYTES)
                event = self._parser.next_event()
        except h11.RemoteProtocolError as error:
            raise _refusal(error) from None
        if self._is_chunked:
            self._check_chunks(self._parser, event)
        if isinstance(event, h11.EndOfMessage):
            self._drop(self._num_fed - len(self._parser.trailing_data[0]))
            self._parser = None
        if isinstance(event, h11.Request):
            _check(event)
            self._is_chunked = b"transfer-encoding" in dict(event.headers)
        return event if isinstance(event, h11.Request | h11.Data | h11.EndOfMessage) else None

    def _feed_parser(self, parser: h11.Connection, end: int) -> None:
        """Give the parser what waits up to `end`. What it got before, it has read."""
        end -= self._num_fed
        self._drop(self._num_fed)
        data = bytes(self._waiting[:end])
        self._num_fed = len(data)
        parser.receive_data(data)

    def _drop(self, num_bytes: int) -> None:
        del self._waiting[:num_bytes]
        self._num_fed = 0

    def _check_chunks(self, parser: h11.Connection, event: object) -> None:
        """Refuse a chunk as soon as its length is known, and a body in too many pieces."""
        if isinstance(event, h11.Data):
            self._num_pieces += 1
            self._num_body_bytes += len(event.data)
        if self._num_body_bytes + _num_bytes_to_come(parser) > self._max_body_bytes:
            sentence = f"the body must have at most {self._max_body_bytes} bytes"
            raise RefusedRequestError(sentence, _CONTENT_TOO_LARGE, ErrorKind.TOO_LARGE)
        if self._num_pieces > FREE_PIECES + self._num_body_bytes // MIN_PIECE_BYTES:
            raise RefusedRequestError(
                "the body comes in too many small chunks; send chunks of at least"
                f" {MIN_PIECE_BYTES} bytes, or a Content-Length"
            )

    def _begin(self) -> bool:
        """Give a head that is there in full to a parser of its own."""
        if not self._waiting:
            return False
        end = self._head_end()
        if end is None:
            return False
        head = bytes(self._waiting[:end])
        if _BAD_LINE.search(head):
            raise RefusedRequestError(
                "the request cannot be read: a line of its head does not end with CR LF, or goes on"
                " in the next line"
            )
        if head.count(b"\n") - 2 > MAX_HEADERS:
            raise RefusedRequestError(
                f"the request must have at most {MAX_HEADERS} headers", _HEADERS_TOO_LARGE
            )
        _check_lengths(head)
        self._head = head
        self._parser = h11.Connection(h11.SERVER, self._max_header_bytes)
        self._is_chunked = False
        self._num_pieces = self._num_body_bytes = self._searched = 0
        self._feed_parser(self._parser, end)
        return True

    def _head_end(self) -> int | None:
        """Where the head ends, None if it has not; RefusedRequestError once it cannot be a head."""
        if self._waiting[:2] == b"\r\n":
            # RFC 9112, 2.2: an empty line before a request is some clients' habit.
            del self._waiting[:2]
        if self._waiting and not _METHOD_BEGIN.match(self._waiting):
            if self._waiting == b"\r":
                return None
            raise RefusedRequestError(
                "this port speaks HTTP/1.1 without TLS, and these bytes are not"
            )
        if self._waiting.startswith(_HTTP_2_PREFACE):
            raise Http2Error
        found = _HEAD_END.search(self._waiting, max(0, self._searched - 3))
        self._searched = len(self._waiting)
        if (found.end() if found else len(self._waiting)) > self._max_header_bytes:
            raise RefusedRequestError(
                f"the request's headers must have at most {self._max_header_bytes} bytes"
                " (--max-header-bytes)",
                _HEADERS_TOO_LARGE,
            )
        return found.end() if found else None


def path_of(target: bytes) -> tuple[bytes, bytes]:
    """The path and the query of a request's target, in any form that a server must take."""
    if absolute := _ABSOLUTE.match(target):
        target = target[absolute.end() :]
        target = target if target.startswith(b"/") else b"/" + target
    path, _, query = target.partition(b"?")
    return path, query


def _num_bytes_to_come(parser: h11.Connection) -> int:
    """What is left of the chunk that the parser reads. h11 has the number, but does not show it."""
    reader: Any = parser._reader
    return int(getattr(reader, "_bytes_in_chunk", 0))


def _check(request: h11.Request) -> None:
    if request.http_version not in (b"1.0", b"1.1"):
        raise RefusedRequestError("this port speaks HTTP/1.1 and HTTP/1.0", _VERSION_NOT_SUPPORTED)
    if request.method == b"CONNECT":
        raise RefusedRequestError("this server is no proxy: CONNECT has no meaning here")
    target = request.target
    if not target.startswith(b"/") and target != b"*" and not _ABSOLUTE.match(target):
        raise RefusedRequestError("the request's target must be a path that begins with /")
    if request.http_version == b"1.0" and b"transfer-encoding" in dict(request.headers):
        raise RefusedRequestError("HTTP/1.0 has no Transfer-Encoding; send Content-Length")


def _check_lengths(head: bytes) -> None:
    """Refuse a body whose end another server could see elsewhere; h11 takes equal lengths."""
    lengths: list[tuple[bytes, bytes]] = _LENGTH.findall(head)
    is_list = any(b"," in value for _, value in lengths)
    if len(lengths) == 1 and is_list and lengths[0][0].lower() == b"transfer-encoding":
        sentence = "of transfer encodings, this server takes chunked alone"
        raise RefusedRequestError(sentence, _NOT_IMPLEMENTED)
    if len(lengths) > 1 or is_list:
        raise RefusedRequestError(
            "the request must give the length of its body once, by Content-Length or by"
            " Transfer-Encoding"
        )


def _refusal(error: h11.RemoteProtocolError) -> RefusedRequestError:
    """h11's words without its quotation: it may hold a piece of a prompt, and this gets logged."""
    reason = _QUOTATION.sub("", str(error))
    return RefusedRequestError(
        f"the request cannot be read: {reason}", error.error_status_hint or 400
    )
