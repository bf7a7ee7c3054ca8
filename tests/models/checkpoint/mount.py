"""A mount that behaves like a bucket's: slow to begin, capped, and honest about replaced objects.

Run as a process of its own: `python -m tests.models.checkpoint.mount SOURCE MOUNTPOINT CONTROL`.
CONTROL is a JSON file that is read anew for every call, so that a test can make the mount worse
while it is used: `first_byte_seconds`, `bytes_per_second`, `denied` (a file's name),
`hang_seconds`.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from pathlib import Path


def unavailable() -> str:
    """Why there can be no mount here; empty where there can."""
    if not Path("/dev/fuse").exists():
        return "there is no /dev/fuse"
    if find_library("fuse") is None:
        return "libfuse2 is not installed"
    return "" if os.geteuid() == 0 else "mounting needs root"


class Mount:
    """A mounted folder, and the knobs of its process."""

    def __init__(self, source: Path, folder: Path, control: Path) -> None:
        self.source, self.folder, self._control = source, folder, control

    def set(self, **control: object) -> None:
        partial = self._control.with_suffix(".partial")
        partial.write_text(json.dumps(control))
        partial.replace(self._control)


@contextmanager
def mounted(source: Path, folder: Path) -> Iterator[Mount]:
    """Mount `source` at `folder`, which is made, for the length of the block."""
    mount = Mount(source, folder, folder.with_suffix(".json"))
    mount.set()
    folder.mkdir()
    arguments = [str(source), str(folder), str(mount._control)]
    process = subprocess.Popen([sys.executable, "-m", "tests.models.checkpoint.mount", *arguments])
    try:
        deadline = time.monotonic() + 20
        while not folder.is_mount():
            assert process.poll() is None, "the mount's process ended"
            assert time.monotonic() < deadline, "it does not mount"
            time.sleep(0.01)
        yield mount
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)
        process.kill()
        process.wait()


def _serve(source: Path, folder: str, control: Path) -> None:
    from fuse import FUSE, FuseOSError, Operations

    class Bucket(Operations):
        """Read only. A file replaced since it was opened answers ESTALE, as gcsfuse does."""

        def __init__(self):
            self._lock = threading.Lock()
            self._free_at = 0.0
            self._begun: set[int] = set()
            self._opened: dict[int, tuple[Path, int]] = {}

        def _settings(self):
            settings = json.loads(control.read_text())
            time.sleep(settings.get("hang_seconds", 0))
            return settings

        def getattr(self, path, fh=None):
            self._settings()
            try:
                found = os.lstat(source / path[1:])
            except FileNotFoundError:
                raise FuseOSError(errno.ENOENT) from None
            names = ("st_mode", "st_nlink", "st_size", "st_mtime", "st_uid", "st_gid")
            return {name: getattr(found, name) for name in names}

        def readdir(self, path, fh):
            return [".", "..", *os.listdir(source / path[1:])]

        def open(self, path, flags):
            if self._settings().get("denied") == Path(path).name:
                raise FuseOSError(errno.EACCES)
            opened = os.open(source / path[1:], os.O_RDONLY)
            self._opened[opened] = (source / path[1:], os.fstat(opened).st_mtime_ns)
            return opened

        def read(self, path, size, offset, fh):
            settings = self._settings()
            where, generation = self._opened[fh]
            if where.stat().st_mtime_ns != generation:
                raise FuseOSError(errno.ESTALE)
            if fh not in self._begun:
                self._begun.add(fh)
                time.sleep(settings.get("first_byte_seconds", 0))
            data = os.pread(fh, size, offset)
            self._wait_for_bandwidth(len(data), settings.get("bytes_per_second"))
            return data

        def _wait_for_bandwidth(self, num_bytes, bytes_per_second):
            if not bytes_per_second:
                return
            with self._lock:
                self._free_at = max(self._free_at, time.monotonic()) + num_bytes / bytes_per_second
                wait = self._free_at - time.monotonic()
            time.sleep(max(0.0, wait))

        def release(self, path, fh):
            self._begun.discard(fh)
            del self._opened[fh]
            os.close(fh)

    FUSE(Bucket(), folder, foreground=True, ro=True, direct_io=True, attr_timeout=0)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
