"""How busy the machine's cores are, by the kernel's clocks: of a group of processes, and in all."""

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
    """Seconds of cores so far, by what used them."""

    moment: float
    used: Mapping[str, float]

    @classmethod
    def read(cls, groups: Mapping[str, Iterable[int]]) -> Self:
        """`groups` of process ids; besides them `others` is all that the machine did."""
        used = {name: sum(_process_seconds(pids)) for name, pids in groups.items()}
        others = _machine_seconds() - sum(used.values())
        return cls(time.monotonic(), {**used, "others": others})

    def cores_since(self, before: Clocks) -> dict[str, float]:
        """Cores that were busy on average; what ticks make a little less than none is none."""
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
    """Neither idle nor waiting for disks."""
    fields = Path("/proc/stat").read_text().split()[1:8]
    user, nice, system, _, _, irq, softirq = map(int, fields)
    return (user + nice + system + irq + softirq) / _TICKS
