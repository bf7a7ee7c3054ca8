"""When a model configuration file that could not be followed is tried again.

Knows neither threads nor how a file is followed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from server.versions.model_file.model_file import ModelFile
from server.versions.version import may_pass

_FIRST_WAIT_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Plan:
    file: ModelFile
    at: float


class Retry:
    """At most one plan at a time. The waits double while the same file fails."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._plan: _Plan | None = None
        self._wait = _FIRST_WAIT_SECONDS

    @property
    def is_planned(self) -> bool:
        return self._plan is not None

    @property
    def times(self) -> list[float]:
        """The time of the next try, by the clock; empty where there is none."""
        return [self._plan.at] if self._plan else []

    def due(self) -> ModelFile | None:
        """The file that it is time to try again."""
        return self._plan.file if self._plan and self._clock() >= self._plan.at else None

    def plan(self, file: ModelFile, error: Exception) -> str:
        """Plan the next try after an error that may pass. The words that say so, or empty."""
        last, self._plan = self._plan, None
        if not may_pass(error):
            return ""
        is_again = last is not None and last.file is file
        self._wait = min(2 * self._wait, _LONGEST_WAIT_SECONDS) if is_again else _FIRST_WAIT_SECONDS
        wait = self._wait
        self._plan = _Plan(file, self._clock() + wait)
        at = time.strftime("%H:%M:%S", time.gmtime(time.time() + wait))
        return f"; the server tries again in {wait:g} s (at {at} UTC)"

    def end(self) -> None:
        """Try no more."""
        self._plan = None
