"""A checkpoint's files, wherever they lie: which there are, how long, and any part of one.

Reads are positioned and never mapped: a mapped file that is cut short kills the process that looks
at it, and a mount that is asked page by page is slow. Knows no file format and checks no content.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Protocol


class Files(Protocol):
    """The files of one folder. Every method may take as long as a mount or a bucket does."""

    @property
    def place(self) -> str:
        """Where they are, for messages."""

    def names(self) -> list[str]:
        """The files there are; OSError if the folder cannot be listed."""

    def size(self, name: str) -> int:
        """Bytes of one file; OSError if it cannot be had."""

    def read(self, name: str, offset: int, length: int) -> memoryview:
        """Exactly these bytes of one file. OSError if they cannot be had, or are not all there."""


class LocalFiles:
    """Files of a folder of this machine, which may be a mount. For any thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._first_seen: dict[str, tuple[int, int]] = {}

    @property
    def place(self) -> str:
        return str(self.folder)

    def names(self) -> list[str]:
        return sorted(entry.name for entry in os.scandir(self.folder) if entry.is_file())

    def size(self, name: str) -> int:
        return (self.folder / name).stat().st_size

    def read(self, name: str, offset: int, length: int) -> memoryview:
        with (self.folder / name).open("rb", buffering=0) as file:
            self._check_unchanged(name, os.fstat(file.fileno()))
            return _read_exactly(file.fileno(), name, offset, length)

    def _check_unchanged(self, name: str, now: os.stat_result) -> None:
        """Opened once more for every read: a file put in another's place shall not be mixed in."""
        seen = self._first_seen.setdefault(name, (now.st_size, now.st_mtime_ns))
        if seen != (now.st_size, now.st_mtime_ns):
            raise OSError(errno.ESTALE, f"{name} was changed while it was read")


def _read_exactly(descriptor: int, name: str, offset: int, length: int) -> memoryview:
    view = memoryview(bytearray(length))
    done = 0
    while done < length:
        count = os.preadv(descriptor, [view[done:]], offset + done)
        if count == 0:
            raise OSError(errno.EIO, f"{name} ends {length - done} bytes too soon")
        done += count
    return view
