"""Where the time of a start goes: its phases one after another, from the process's birth to ready.

The phases add up to the time to ready. Knows neither what a phase does nor who asks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, get_args

type StartPhase = Literal["import", "hosts", "weights", "compile", "warm_up"]

PHASES: tuple[StartPhase, ...] = get_args(StartPhase.__value__)
# What a phase usually takes of a start, in percent: `progress` is an estimate.
_SHARES: dict[StartPhase, int] = {
    "import": 15, "hosts": 5, "weights": 20, "compile": 50, "warm_up": 10,
}  # fmt: skip


class _State(NamedTuple):
    phase: StartPhase
    since: float | None
    ended: dict[StartPhase, float]

    def seconds(self, now: float) -> float:
        return 0.0 if self.since is None else now - self.since


class StartClock:
    """One thread enters phases; any thread may read. `age` is seconds since the process began."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, age: float = 0.0) -> None:
        self._clock = clock
        # One object, so that a reader sees a whole state: the phase, since when, what had ended.
        self._state = _State("import", clock() - age, dict.fromkeys(PHASES, 0.0))
        self.progress = 0.0

    @property
    def phase(self) -> StartPhase:
        """The phase that the start is in; its last one at the end."""
        return self._state.phase

    @property
    def phase_seconds(self) -> float:
        """For how long the start has been in its phase; 0 at the end."""
        return self._state.seconds(self._clock())

    @property
    def total(self) -> float:
        """Seconds from the process's birth to the end, or until now."""
        return sum(self.seconds().values())

    def enter(self, phase: StartPhase) -> None:
        """The phase before is over. A phase may be entered again."""
        self._state = _State(phase, self._clock(), self.seconds())
        self.advance(0.0)

    def advance(self, fraction: float) -> None:
        """The phase is done so far, 0 to 1. `progress` of the whole start never goes back."""
        before = sum(_SHARES[each] for each in PHASES[: PHASES.index(self.phase)])
        self.progress = max(self.progress, (before + fraction * _SHARES[self.phase]) / 100)

    def end(self) -> None:
        """The server is ready."""
        self._state = _State(self.phase, None, self.seconds())
        self.progress = 1.0

    def seconds(self) -> dict[StartPhase, float]:
        """What each phase has taken, the one under way included."""
        phase, _, ended = state = self._state
        return ended | {phase: ended[phase] + state.seconds(self._clock())}

    def summary(self) -> str:
        """All phases in one line, for the log."""
        spelled = (f"{name.replace('_', '-')} {s:.1f} s" for name, s in self.seconds().items())
        return f"{self.total:.1f} s: " + ", ".join(spelled)


def process_age() -> float:
    """Seconds since the kernel started this process; 0 where the kernel does not say."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        # Field 22 of proc(5), in ticks since the machine started; the split begins with field 3.
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
