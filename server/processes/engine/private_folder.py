"""The folder of the compilation cache, which no other user may write: its entries are run.

A folder that others may write, such as a mounted emptyDir, gets a private folder inside it. Knows
nothing of what lies in the folder.
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

_PRIVATE = 0o700

_log = logging.getLogger(__name__)


def private_folder(path: Path) -> Path | None:
    """`path`, or a folder inside it, that only this user may write; None if there is none."""
    try:
        path.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
        if _is_private(path.stat()):
            return path
        inside = path / f"private-{os.geteuid()}"
        inside.mkdir(mode=_PRIVATE, exist_ok=True)
        # Not `stat`: another user could lead this user elsewhere by a symbolic link.
        if _is_private(inside.lstat()):
            return inside
    except OSError as error:
        _log.warning("no compilation cache: %s cannot be used: %s", path, error)
        return None
    _log.warning(
        "no compilation cache: other users may write %s and %s, and the server would run what they"
        " wrote; name a folder of the server's own as --compile-cache-dir",
        path,
        inside,
    )
    return None


def _is_private(status: os.stat_result) -> bool:
    is_writable_by_others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    is_own = status.st_uid == os.geteuid()
    return stat.S_ISDIR(status.st_mode) and is_own and not is_writable_by_others
