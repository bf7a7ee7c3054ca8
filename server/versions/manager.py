"""Which change of versions is made, and when: by command, by file, or because of a bad version.

One thread makes one change after another. A new version goes one way, and its result comes back:

    model.yaml - ModelFileWatcher --- follow --+
    admin port - VersionCommand - command -----+
                                               v
    VersionManager   load, promote             records, labels, trial     [thread "versions"]
      VersionSwap    read, prove, serve        one change, from begin to end
        loader       checkpoint -> device or host memory
        engine.call  VersionChanges            between two steps          [step loop]
          ServedVersions   loaded, open, served, previous, watch
          Scheduler        reads `serving` when it admits a sequence: the next step

The manager keeps a record of every version but asks `ServedVersions` which one is served. It runs
no step and reads no file.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from server.engine.engine import Engine
from server.link.frames import SwapPolicy, VersionCommand
from server.link.status import VersionStatus
from server.threads import count_fault, guarded
from server.versions.file_follower import FileFollower
from server.versions.golden import GoldenClient, GoldenError
from server.versions.model_file.model_file import ModelFile
from server.versions.records import VersionRecords
from server.versions.trial import Trial
from server.versions.version import (
    SwapObserver,
    SwapSettings,
    Version,
    VersionError,
    VersionLoader,
)
from server.versions.version_swap import VersionSwap

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Task:
    run: Callable[[], None]
    future: Future[None] = field(default_factory=Future)


class VersionManager:
    """Every version there is or was, in the order in which they came."""

    def __init__(
        self,
        engine: Engine[Any],
        loader: VersionLoader[Any],
        golden: GoldenClient,
        first: Version,
        settings: SwapSettings,
        observer: SwapObserver,
        *,
        on_change: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine, self._observer = engine, observer
        self._interrupted = threading.Event()
        # Rollbacks that were asked for and have not begun: each ends a load, also one not begun.
        self._num_rollbacks = 0
        self._lock = threading.Lock()
        self._swap = VersionSwap(
            engine, loader, golden, settings, self._interrupted, on_change, clock
        )
        self._on_change, self._clock = on_change, clock
        self._records = VersionRecords(engine.versions, first)
        self._file = FileFollower(
            self._records, settings.policy, clock, load=self._load, promote=self._promote
        )
        # What a rollback served until it made room for a version that is not served yet.
        self._made_room: Version | None = None
        self._trial = Trial(
            engine.versions,
            self._swap,
            settings.watch_window,
            clock,
            interrupt=self._interrupt,
            fail=self._fail_trial,
        )
        self._tasks: queue.SimpleQueue[_Task] = queue.SimpleQueue()
        self._thread = guarded(self._run, "versions", on_fault=self._on_fault)

    def start(self) -> None:
        """Take commands. The step loop must run, or be about to."""
        self._thread.start()

    # From any thread.

    @property
    def config_error(self) -> str:
        return self._file.error

    def statuses(self) -> tuple[VersionStatus, ...]:
        """Every version, the one that is served first."""
        return self._records.statuses()

    def command(self, command: VersionCommand) -> Future[None]:
        """Do what a command says; VersionError if that cannot be. A rollback ends a load."""
        if command.action == "rollback":
            with self._lock:
                self._num_rollbacks += 1
                self._interrupted.set()
        return self._put(lambda: self._command(command))

    def follow(self, file: ModelFile) -> Future[None]:
        """Become what the model configuration file says."""
        self._file.accept()
        return self._put(lambda: self._file.follow(file))

    def reject(self, reason: str) -> None:
        """The model configuration file cannot be followed; nothing changes. Empty: it can again."""
        self._file.reject(reason)
        self._on_change()

    def _put(self, run: Callable[[], None]) -> Future[None]:
        task = _Task(run)
        self._tasks.put(task)
        return task.future

    # Everything below is the manager's own thread.

    def _run(self) -> None:
        while True:
            with contextlib.suppress(queue.Empty):
                task = self._tasks.get(timeout=self._patience())
                self._clear_interrupt()
                self._trial.answer_fault()
                self._do(task)
            self._trial.check()
            self._try_again()

    def _clear_interrupt(self) -> None:
        with self._lock:
            if not self._num_rollbacks:
                self._interrupted.clear()

    def _do(self, task: _Task) -> None:
        try:
            task.run()
        except VersionError as error:
            _log.error("%s", error)
            task.future.set_exception(error)
        except Exception as error:
            count_fault("versions")
            _log.exception("a change of versions failed")
            task.future.set_exception(VersionError(f"{error!r}; the log says more", "internal"))
        else:
            task.future.set_result(None)
        self._records.forget_ended()
        self._on_change()

    def _patience(self) -> float | None:
        times = [*self._trial.times, *self._file.retry.times]
        return max(0.0, min(times) - self._clock()) if times else None

    def _command(self, command: VersionCommand) -> None:
        match command.action:
            case "load":
                self._load(command.version, command.path, command.policy or self._file.policy)
            case "promote":
                self._promote(self._records.find(command.version))
                self._file.give_up("a command changed the version")
            case "rollback":
                with self._lock:
                    self._num_rollbacks -= 1
                self._clear_interrupt()
                self._roll_back()
                self._file.give_up("a command changed the version")
            case "unload":
                self._unload(self._records.find(command.version))

    def _try_again(self) -> None:
        if file := self._file.retry.due():
            self._do(_Task(lambda: self._file.follow(file)))

    def _on_fault(self, error: Exception) -> None:
        self._file.note_fault(error)
        self._on_change()

    def _load(
        self, name: str, path: str, policy: SwapPolicy, *, is_twin_allowed: bool = False
    ) -> None:
        """Load and prove a version; nobody is served by it yet.

        At most one version stays next to the new one: the version that is served. Only with
        `is_twin_allowed` may one of the same name be here, from another path.
        """
        if self._records.here(name) and not is_twin_allowed:
            raise VersionError(f"version {name} is loaded already")
        previous = self._engine.versions.previous
        leaving = [each for each in self._records.all_here() if not self._records.is_served(each)]
        version = self._records.begin(name, path)
        start = self._clock()
        try:
            self._swap.load(version, policy, leaving)
        except Exception as error:
            self._observer.on_swap("failed")
            self._note_room(leaving, previous)
            self._bring_back(policy, name)
            if not isinstance(error, ValueError | OSError | GoldenError | VersionError):
                raise
            raise VersionError(f"version {name} is not loaded: {error}") from error
        self._note_room(leaving, previous)
        self._observer.on_load(self._clock() - start)

    def _note_room(self, leaving: list[Version], previous: str | None) -> None:
        for each in leaving:
            if each.key == previous and not self._records.is_here(each):
                self._made_room = each

    def _bring_back(self, policy: SwapPolicy, failed: str) -> None:
        """Load what a rollback serves, if it made room for a version that then failed."""
        gone, self._made_room = self._made_room, None
        if gone is None:
            return
        version = self._records.begin_again(gone)
        # The rollback that ended the load waits for this one.
        self._interrupted.clear()
        try:
            self._swap.load(version, policy, ())
            self._swap.keep(version)
        except Exception as error:
            version.message = (
                f"there is no version to go back to: version {version.name} made room for version "
                f"{failed}, which failed, and could not be loaded again: {error}"
            )
            _log.exception("%s", version.message)
        with self._lock:
            if self._num_rollbacks:
                self._interrupted.set()

    def _promote(self, version: Version) -> None:
        """Serve a version that is here from now on."""
        before, start = self._records.served(), self._clock()
        if version is before:
            raise VersionError(f"version {version.name} is served already")
        try:
            watch = self._swap.promote(before, version)
        except GoldenError as error:
            self._observer.on_swap("failed")
            self._bring_back("resource", version.name)
            raise VersionError(f"version {version.name} is not served: {error}") from error
        self._observer.on_switch(self._clock() - start)
        self._observer.on_swap("promoted")
        self._made_room = None
        self._trial.begin(version, watch)
        _log.info("version %s is served", version.name, extra={"before": before.name})

    def _roll_back(self) -> None:
        """Serve the version before, and keep the one that is served now."""
        bad, previous = self._records.served(), self._records.previous()
        start = self._clock()
        _log.warning("going back from version %s: %s", bad.name, "asked for")
        self._swap.go_back(bad, previous)
        self._observer.on_switch(self._clock() - start)
        self._observer.on_swap("rolled_back")

    def _take_back(self, bad: Version, reason: str) -> None:
        """End a version whose trial has failed. After a fault the step loop may have left it."""
        self._swap.unwatch()
        records = self._records
        version = records.previous() if records.is_served(bad) else records.served()
        start = self._clock()
        _log.warning("going back from version %s: %s", bad.name, reason)
        self._swap.take_back(bad, version, reason)
        self._observer.on_switch(self._clock() - start)
        self._observer.on_swap("automatic_rollback")
        self._file.give_up(f"version {bad.name} was taken back: {reason}")

    def _unload(self, version: Version) -> None:
        if self._records.is_served(version):
            raise VersionError(f"version {version.name} is served; promote another first")
        self._swap.unload(version)

    def _interrupt(self) -> None:
        """End the change under way and wake the manager. For any thread."""
        self._interrupted.set()
        self._put(lambda: None)

    def _fail_trial(self, version: Version, reason: str) -> None:
        self._do(_Task(lambda: self._take_back(version, reason)))
