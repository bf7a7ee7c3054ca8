"""Computes how much host memory is left to this process: the machine's or its container's.

The container's limit comes from the files of Linux' control groups, version 1 or 2. Outside of a
container there is no such limit. Knows nothing of weights.
"""

from __future__ import annotations

from pathlib import Path

_GROUPS, _MACHINE = Path("/sys/fs/cgroup"), Path("/proc/meminfo")
# For control groups of version 2, then 1: the files of limit, use and statistics, and the key of
# the statistics that counts file pages. The kernel frees these pages before it ends a process.
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
    """Bytes that this process may still take, including file pages that the kernel would free."""
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
