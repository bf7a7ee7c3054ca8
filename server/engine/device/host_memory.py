"""How much host memory is left to this process: the machine's, or its container's if that is less.

A container's limit is a control group's, in the files of either version of Linux' control groups;
outside of a container it sees no group's. It knows nothing of weights.
"""

from __future__ import annotations

from pathlib import Path

_GROUPS, _MACHINE = Path("/sys/fs/cgroup"), Path("/proc/meminfo")
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


def available_bytes(groups: Path = _GROUPS, machine: Path = _MACHINE) -> int:
    """Bytes that may still be taken, file pages that the kernel would give back included."""
    left = [_count(machine.read_text(), "MemAvailable:") * 1024]
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


def _count(table: str, key: str) -> int:
    return next((int(line.split()[1]) for line in table.splitlines() if line.startswith(key)), 0)
