"""Temporary folders that the next start clears if their owner was killed.

The owner holds a lock on its folder for as long as it lives, and the kernel gives the lock back at
the owner's death. Knows nothing of what lies in the folders.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Not merely "antipode-": the folders of a release without locks would seem abandoned.
_PREFIX = "antipode-held-"


@contextmanager
def temporary_folder(kind: str) -> Iterator[Path]:
    """A new private folder, which is gone afterwards; `kind` is a part of its name."""
    with contextlib.ExitStack() as stack:
        while True:
            path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{kind}-"))
            # A start that clears may take the folder before it is opened, or before it is locked.
            try:
                lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                continue
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                break
            os.close(lock)
        stack.callback(os.close, lock)
        stack.callback(shutil.rmtree, path, ignore_errors=True)
        yield path


def clear_abandoned() -> list[Path]:
    """Remove this user's folders whose owners are gone; returns them."""
    found = Path(tempfile.gettempdir()).glob(f"{_PREFIX}*")
    return [path for path in found if _clear(path)]


def _clear(path: Path) -> bool:
    try:
        status = path.lstat()
        if status.st_uid != os.geteuid() or not stat.S_ISDIR(status.st_mode):
            return False
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True
