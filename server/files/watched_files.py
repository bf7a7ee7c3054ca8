"""What some small files hold, read again when one of them changes.

An operator replaces such files under a running server: keys, certificates. A new content that
cannot be used is logged once, and the content before it stays in force. Knows no file's meaning.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

# How often, at most, the files are looked at. They are looked at only when somebody asks.
LOOK_SECONDS = 1.0

type Signature = tuple[tuple[int, int, int], ...]

_log = logging.getLogger(__name__)


class WatchedFileError(Exception):
    """Files that cannot be used; the message names the file and says what to do."""


class WatchedFiles[T]:
    """The value that `read` makes of `paths`. Any thread may ask for it.

    The first reading is at once, and raises what `read` raises.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        read: Callable[[], T],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._paths = tuple(paths)
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._signature = self._sign()
        self._value = read()
        self._looked_at = clock()

    def current(self) -> T:
        """The newest content that could be used."""
        now = self._clock()
        if now - self._looked_at < LOOK_SECONDS:
            return self._value
        with self._lock:
            self._looked_at = now
            self._look()
            return self._value

    def _look(self) -> None:
        signature = self._sign()
        if signature == self._signature:
            return
        try:
            value = self._read()
        except WatchedFileError as error:
            self._signature = signature
            _log.error("%s; what was read before stays in force", error)
            return
        # Files that are being replaced, one after another, are read again at the next look.
        if signature == self._sign():
            self._signature, self._value = signature, value
            _log.info("read again", extra={"files": [str(path) for path in self._paths]})

    def _sign(self) -> Signature:
        """What changes whenever a file is written or replaced, also behind a symbolic link."""
        return tuple(_sign(path) for path in self._paths)


def _sign(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_mtime_ns, found.st_size)
