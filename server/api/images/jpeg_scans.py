"""How many scans a JPEG has: each costs the time of all its pixels, and a few bytes of the file.

Reads markers, as a decoder finds them, and no pixels.
"""

from __future__ import annotations

import re

# A marker, but none that may stand inside of a scan.
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_WITHOUT_LENGTH = (0x01, 0xD8)
# A search holds the interpreter's lock.
_WINDOW_BYTES = 1 << 20


def has_more_scans(data: bytes, most: int) -> bool:
    """Whether the first picture of a file has more scans than `most`."""
    if data.count(bytes((0xFF, _START_OF_SCAN))) <= most:
        return False
    # What follows the picture, or lies in its other segments, may hold the same two bytes.
    count, place = 0, _next_marker(data, 0)
    while count <= most and 0 <= place < len(data) - 1 and data[place + 1] != _END_OF_IMAGE:
        count += data[place + 1] == _START_OF_SCAN
        place = _next_marker(data, place + _length(data, place))
    return count > most


def _length(data: bytes, place: int) -> int:
    """The bytes of a marker and its segment."""
    if data[place + 1] in _WITHOUT_LENGTH:
        return 2
    return 2 + max(2, int.from_bytes(data[place + 2 : place + 4], "big"))


def _next_marker(data: bytes, start: int) -> int:
    """The place of the next marker; -1 if there is none."""
    for begin in range(start, len(data), _WINDOW_BYTES):
        found = _MARKER.search(data, begin, begin + _WINDOW_BYTES + 1)
        if found is not None:
            return found.start()
    return -1
