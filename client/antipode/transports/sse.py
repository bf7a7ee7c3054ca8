"""Server-sent events as the WHATWG's standard reads them: bytes in, the data of events out.

Lines end with CR, LF or CRLF, wherever reads cut them. A last event without a blank line counts for
nothing. `id` and `retry` are for clients that connect again by themselves, so they are ignored.
The data stays bytes: the standard would replace wrong UTF-8, but an answer must not change
unnoticed. Knows neither HTTP nor JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from antipode.errors import ServerError
from antipode.limits import MAX_MESSAGE_BYTES

_LINE_END = re.compile(rb"\r\n|\r|\n")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Other types are for listeners of their own. A gateway names its errors.
_TYPES = (b"", b"message", b"error")


class EventParser:
    """Gets a stream's bytes in order. A line or an event of over `max_bytes` is a ServerError."""

    def __init__(self, max_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._line = bytearray()
        self._follows_cr = False
        self._is_first_line = True
        self._data: list[bytes] = []
        self._num_bytes = 0
        self._type = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The data of every event that these bytes complete."""
        for line in self._lines(data):
            if line:
                self._take(line)
                continue
            if self._data and self._type in _TYPES:
                yield b"\n".join(self._data)
            self._data, self._num_bytes, self._type = [], 0, b""

    def _lines(self, data: bytes) -> Iterator[bytes]:
        if not data:
            return
        if self._follows_cr:
            data = data.removeprefix(b"\n")
        self._follows_cr = data.endswith(b"\r")
        *ends, rest = _LINE_END.split(data)
        for end in ends:
            self._extend(end)
            line, self._line = bytes(self._line), bytearray()
            yield line.removeprefix(_BYTE_ORDER_MARK) if self._is_first_line else line
            self._is_first_line = False
        self._extend(rest)

    def _extend(self, part: bytes) -> None:
        self._line += part
        self._check(len(self._line), "line")

    def _take(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._num_bytes += len(value) + 1
            self._check(self._num_bytes, "event")
        elif name == b"event":
            self._type = value

    def _check(self, num_bytes: int, what: str) -> None:
        if num_bytes > self._max_bytes:
            raise ServerError(f"the server sent more than {self._max_bytes} bytes in one {what}")
