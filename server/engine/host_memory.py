"""How much host memory is left to this process: the machine's, or its container's if that is less.

A container's limit is a control group's, in the files of either version of Linux' control groups.
It knows nothing of weights.
"""

from __future__ import annotations

import os
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
# Version 2, then 1: the files of limit and use, and the one whose `key` counts file pages that the
# kernel takes back before it ends a process.
_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)


def available_bytes(groups: Path = _GROUPS) -> int:
    """Bytes that may still be taken; never less than 0."""
    left = [_machine()]
    for limit, used, stat, key in _FILES:
        try:
            bound = (groups / limit).read_text().strip()
            taken = int((groups / used).read_text())
            cache = _count((groups / stat).read_text(), key)
        except (OSError, ValueError):
            continue
        if bound != "max":
            left.append(int(bound) - taken + cache)
    return max(0, min(left))


def _machine() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _count(stat: str, key: str) -> int:
    return next((int(line.split()[1]) for line in stat.splitlines() if line.split()[0] == key), 0)
