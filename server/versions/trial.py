"""The trial of a promoted version: its golden prompts run again, and a faulty output ends it.

The prompts run in the middle of the watch window and at its end. Decides whether a trial has
failed; what then happens to the version is the manager's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from server.engine.policy.served_versions import ServedVersions, Watch
from server.versions.golden import GoldenError
from server.versions.version import Version
from server.versions.version_swap import VersionSwap


@dataclass(slots=True)
class _UnderTrial:
    """A promoted version, and when its golden prompts run again. The last of `checks` ends it."""

    version: Version
    watch: Watch
    checks: list[float]


class Trial:
    """At most one at a time. For the manager's thread.

    `interrupt` is called by any thread once an output was faulty, `fail` with the version and why.
    """

    def __init__(
        self,
        versions: ServedVersions,
        swap: VersionSwap,
        window: float,
        clock: Callable[[], float],
        *,
        interrupt: Callable[[], None],
        fail: Callable[[Version, str], None],
    ) -> None:
        self._versions, self._swap = versions, swap
        self._window, self._clock = window, clock
        self._interrupt, self._fail = interrupt, fail
        self._now: _UnderTrial | None = None

    @property
    def times(self) -> list[float]:
        """The time of the next check, by the clock; empty where there is none."""
        return self._now.checks[:1] if self._now else []

    def begin(self, version: Version, watch: Watch | None) -> None:
        """Try a version that was promoted; None ends the trial before and begins none."""
        if watch is None:
            self._now = None
            return
        now = self._clock()
        self._now = _UnderTrial(version, watch, [now + self._window / 2, now + self._window])
        watch.fault.add_done_callback(lambda _: self._interrupt())

    def answer_fault(self) -> None:
        """Fail a version that a request has failed on, before any other change is made."""
        trial = self._now
        if trial is not None and trial.watch.fault.done():
            self._end(trial, "its output was not finite")

    def check(self) -> None:
        """Run the golden prompts again when it is time; at the end of the window all is proved."""
        trial = self._now
        if trial is None or trial.watch.fault.done():
            return
        if self._versions.watch is not trial.watch:
            self._now = None
        elif self._clock() >= trial.checks[0]:
            trial.checks.pop(0)
            self._prove(trial)

    def _prove(self, trial: _UnderTrial) -> None:
        try:
            self._swap.check(trial.version)
        except GoldenError as error:
            self._end(trial, str(error))
            return
        # A trial that a fault has ended stays until that is answered.
        if not trial.checks and not self._swap.unwatch():
            self._now = None

    def _end(self, trial: _UnderTrial, reason: str) -> None:
        self._now = None
        self._fail(trial.version, reason)
