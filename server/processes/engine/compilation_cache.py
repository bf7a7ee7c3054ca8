"""JAX's compilation cache, in a folder that no other user may write: its entries are run.

A folder that others may write, such as a mounted emptyDir, gets a private folder inside it. Knows
nothing of what lies in the folder.
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

from server.config.engine_config import EngineConfig

_PRIVATE = 0o700

_log = logging.getLogger(__name__)


def set_compilation_cache(config: EngineConfig) -> None:
    """Keep every compiled program, however small or fast: a start needs all of them.

    JAX's own variable wins over the setting, and its folder is checked too.
    """
    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR") or config.compile_cache_dir
    if not chosen:
        return
    folder = private_folder(Path(chosen).absolute())
    if folder is None:
        os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


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
