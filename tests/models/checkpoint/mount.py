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
from pathlib import Path
from typing import Any

from tests.models.checkpoint import fuse


def unavailable() -> str:
    """Why there can be no mount here; empty where there can."""
    if not Path("/dev/fuse").exists():
        return "there is no /dev/fuse"
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


class Bucket:
    """Read only. A file replaced since it was opened answers ESTALE, as gcsfuse does."""

    def __init__(self, source: Path, control: Path) -> None:
        self._source, self._control = source, control
        self._lock = threading.Lock()
        self._free_at = 0.0
        self._begun: set[int] = set()
        self._opened: dict[int, tuple[Path, int]] = {}

    def stat(self, path: str) -> os.stat_result:
        self._settings()
        return os.lstat(self._source / path)

    def names(self, path: str) -> list[str]:
        return [".", "..", *sorted(os.listdir(self._source / path))]

    def open(self, path: str) -> int:
        if self._settings().get("denied") == Path(path).name:
            raise OSError(errno.EACCES, "denied")
        opened = os.open(self._source / path, os.O_RDONLY)
        self._opened[opened] = (self._source / path, os.fstat(opened).st_mtime_ns)
        return opened

    def read(self, handle: int, offset: int, size: int) -> bytes:
        settings = self._settings()
        path, generation = self._opened[handle]
        if path.stat().st_mtime_ns != generation:
            raise OSError(errno.ESTALE, "replaced")
        if handle not in self._begun:
            self._begun.add(handle)
            time.sleep(settings.get("first_byte_seconds", 0))
        data = os.pread(handle, size, offset)
        self._wait_for_bandwidth(len(data), settings.get("bytes_per_second"))
        return data

    def close(self, handle: int) -> None:
        self._begun.discard(handle)
        del self._opened[handle]
        os.close(handle)

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = json.loads(self._control.read_text())
        time.sleep(settings.get("hang_seconds", 0))
        return settings

    def _wait_for_bandwidth(self, num_bytes: int, bytes_per_second: float | None) -> None:
        if not bytes_per_second:
            return
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + num_bytes / bytes_per_second
            wait = self._free_at - time.monotonic()
        time.sleep(max(0.0, wait))


if __name__ == "__main__":
    fuse.serve(sys.argv[2], Bucket(Path(sys.argv[1]), Path(sys.argv[3])))
