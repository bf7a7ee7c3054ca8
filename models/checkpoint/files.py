"""The interface to a checkpoint's files in any place, and its form for a local folder.

A caller lists the files, asks for a size, or reads a part. Files are read, never memory-mapped: a
process that touches a mapped file after it was truncated dies, and a mount is slow when it is read
page by page. Checks no content, and knows of formats only how Git LFS stands in for a file.
"""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path
from typing import Protocol

# What begins a file that stands for another one, where a repository was cloned without Git LFS.
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
IS_LFS_POINTER = "is a pointer of Git LFS, not the file itself: fetch the files (git lfs pull)"

_MIN_MAPPED_BYTES = 1 << 20


class Files(Protocol):
    """The files of one folder. Every method may block for as long as the mount or bucket takes."""

    @property
    def place(self) -> str:
        """The folder's path or address, for messages."""

    def names(self) -> list[str]:
        """The names of the files; OSError if the folder cannot be listed."""

    def size(self, name: str) -> int:
        """The size of one file in bytes; OSError if it cannot be read."""

    def read(self, name: str, offset: int, length: int) -> memoryview:
        """Exactly these bytes of one file; OSError if any of them is missing or cannot be read."""


class LocalFiles:
    """The files of a local folder, which may be a mount. For use by any thread."""

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
        """Refuses a file that was replaced since its first read: every read opens the file anew."""
        seen = self._first_seen.setdefault(name, (now.st_size, now.st_mtime_ns))
        if seen != (now.st_size, now.st_mtime_ns):
            raise OSError(errno.ESTALE, f"{name} was changed while it was read")


def empty_buffer(length: int) -> memoryview:
    """Zeros to read into. A large buffer goes back to the system with its last reference.

    malloc would keep it: once one such buffer is freed, it serves the next from the arena of the
    thread, and each of the reading threads has one.
    """
    is_large = length >= _MIN_MAPPED_BYTES
    return memoryview(mmap.mmap(-1, length) if is_large else bytearray(length))


def _read_exactly(descriptor: int, name: str, offset: int, length: int) -> memoryview:
    view = empty_buffer(length)
    done = 0
    while done < length:
        count = os.preadv(descriptor, [view[done:]], offset + done)
        if count == 0:
            raise OSError(errno.EIO, f"{name} ends {length - done} bytes too soon")
        done += count
    return view
