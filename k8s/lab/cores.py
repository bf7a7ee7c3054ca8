"""Measures busy cores by the kernel's clocks: for groups of processes, and for the machine."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Clocks:
    """Core seconds so far, by group."""

    moment: float
    used: Mapping[str, float]

    @classmethod
    def read(cls, groups: Mapping[str, Iterable[int]]) -> Self:
        """`groups` has process ids by name; `others` counts everything else on the machine."""
        used = {name: sum(_process_seconds(pids)) for name, pids in groups.items()}
        others = _machine_seconds() - sum(used.values())
        return cls(time.monotonic(), {**used, "others": others})

    def cores_since(self, before: Clocks) -> dict[str, float]:
        """The average number of busy cores; a value that rounded ticks make negative becomes 0."""
        seconds = self.moment - before.moment
        return {
            name: max(0.0, round((used - before.used[name]) / seconds, 2))
            for name, used in self.used.items()
        }


def _process_seconds(pids: Iterable[int]) -> Iterator[float]:
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        yield (int(fields[11]) + int(fields[12])) / _TICKS


def _machine_seconds() -> float:
    """Seconds that the machine's cores were neither idle nor waiting for disks."""
    fields = Path("/proc/stat").read_text().split()[1:8]
    user, nice, system, _, _, irq, softirq = map(int, fields)
    return (user + nice + system + irq + softirq) / _TICKS
