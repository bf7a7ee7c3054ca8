"""The life of versions beside the step loop: load, prove, promote, watch, go back, unload.

One thread does one thing after another, for commands, for the model configuration file and for
itself when a promoted version turns out to be bad. It asks the step loop to switch and the weights
to move; it runs no step and reads no file itself.
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
from server.engine.version_switch import Watch
from server.link.frames import (
    SwapPolicy,
    VersionCommand,
    VersionStatus,
)
from server.versions.golden import GoldenClient, GoldenError
from server.versions.model_file import ModelFile
from server.versions.transitions import Transitions
from server.versions.version import (
    SwapObserver,
    SwapSettings,
    Version,
    VersionError,
    VersionLoader,
)

# Versions that ended are shown until so many others have.
_NUM_ENDED = 8

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Trial:
    """A promoted version that has yet to prove itself: until when, and when it is asked again."""

    version: Version
    checks: list[float]


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
        if first.loaded is None:
            raise ValueError("the first version must be loaded")
        self._engine, self._settings, self._observer = engine, settings, observer
        self._moves = Transitions(engine, loader, golden, settings, on_change, clock)
        self._policy: SwapPolicy = settings.policy
        self._on_change, self._clock = on_change, clock
        self._versions = [first]
        self._serving = first
        self._previous: Version | None = None
        self._labels: dict[str, str] = {}
        self._config_error = ""
        self._path: str | None = None
        self._trial: _Trial | None = None
        self._tasks: queue.SimpleQueue[_Task] = queue.SimpleQueue()
        self._interrupts = threading.Event()
        self._thread = threading.Thread(target=self._run, name="versions", daemon=True)

    def start(self) -> None:
        """Take commands. The step loop must run, or be about to."""
        first = self._serving.loaded
        assert first is not None

        def begin(versions: Any) -> None:
            versions.add(first)
            versions.open(first)

        self._engine.call(begin)
        self._thread.start()

    # From any thread.

    @property
    def config_error(self) -> str:
        return self._config_error

    def statuses(self) -> tuple[VersionStatus, ...]:
        """Every version, the one that is served first."""
        serving = self._serving
        versions = sorted(self._versions, key=lambda version: version is not serving)
        return tuple(self._status(version) for version in versions)

    def command(self, command: VersionCommand) -> Future[None]:
        """Do what a command says; VersionError if that cannot be. A rollback ends a load."""
        if command.action == "rollback":
            self._interrupts.set()
        return self._put(lambda: self._command(command))

    def follow(self, file: ModelFile) -> Future[None]:
        """Become what the model configuration file says."""
        return self._put(lambda: self._follow(file))

    def reject(self, reason: str) -> None:
        """The model configuration file cannot be followed; nothing changes."""
        _log.error("the model configuration file is not followed: %s", reason)
        self._config_error = reason
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
                self._do(task)
            self._observe_trial()

    def _do(self, task: _Task) -> None:
        self._interrupts.clear()
        try:
            task.run()
        except VersionError as error:
            _log.error("%s", error)
            task.future.set_exception(error)
        except Exception as error:
            _log.exception("a change of versions failed")
            task.future.set_exception(VersionError(f"{error!r}; the log says more", "internal"))
        else:
            task.future.set_result(None)
        self._on_change()

    def _patience(self) -> float | None:
        if self._trial is None:
            return None
        return max(0.0, self._trial.checks[0] - self._clock())

    def _command(self, command: VersionCommand) -> None:
        match command.action:
            case "load":
                self._load(command.version, command.path, command.policy or self._policy)
            case "promote":
                self._promote(self._find(command.version))
            case "rollback":
                self._roll_back("asked for")
            case "unload":
                self._unload(self._find(command.version))

    def _follow(self, file: ModelFile) -> None:
        self._config_error = ""
        self._policy = file.swap_policy or self._settings.policy
        try:
            name = file.wanted_version()
            self._check_path(file, name)
            if name != self._serving.name:
                if self._here(name) is None:
                    self._load(name, file.path_of(name), self._policy)
                self._promote(self._find(name))
            for label_version in sorted(set(file.labels.values()) - {name}):
                if self._here(label_version) is None:
                    self._load(label_version, file.path_of(label_version), "availability")
        except (VersionError, ValueError) as error:
            self._config_error = str(error)
            raise VersionError(f"the model configuration file is not followed: {error}") from error
        finally:
            here = {version.name for version in self._versions if version.is_here}
            self._labels = {label: of for label, of in file.labels.items() if of in here}

    def _check_path(self, file: ModelFile, name: str) -> None:
        """VersionError for another path with the same version: what was served is not there."""
        before, self._path = self._path, file.path
        if before not in (None, file.path) and name == self._serving.name:
            raise VersionError(
                f"path changed and version did not: version {name} stays as it was read from "
                f"{self._serving.path}; publish the other one under another number"
            )

    def _load(self, name: str, path: str, policy: SwapPolicy) -> None:
        """Load and prove a version; nobody is served by it yet."""
        if self._here(name):
            raise VersionError(f"version {name} is loaded already")
        version = Version(name, path)
        # What came of an earlier loading of it is no news any more.
        self._versions = [each for each in self._versions if each.name != name] + [version]
        start = self._clock()
        try:
            # What is refused must not cost the version to go back to.
            self._moves.inspect(version)
            self._make_room(version)
            if policy == "availability":
                self._moves.load(version, self._progress_of(version))
            else:
                self._moves.stage(version, self._progress_of(version))
        except (ValueError, OSError, GoldenError, VersionError) as error:
            self._discard(version, str(error))
            self._observer.on_swap("failed")
            raise VersionError(f"version {name} is not loaded: {error}") from error
        self._observer.on_load(self._clock() - start)

    def _promote(self, version: Version) -> None:
        """Serve a version that is here from now on."""
        if version is self._serving:
            raise VersionError(f"version {version.name} is served already")
        before, start = self._serving, self._clock()
        self._end_trial()
        if version.loaded is not None:
            watch = Watch(version.loaded, before.loaded, self._report_fault)
            self._moves.serve(version, watch)
        else:
            self._exchange(version, is_proven=False)
        self._serving = version
        self._observer.on_switch(self._clock() - start)
        self._observer.on_swap("promoted")
        self._previous = before
        self._begin_trial(version)
        _log.info("version %s is served", version.name, extra={"before": before.name})

    def _roll_back(self, reason: str, *, is_automatic: bool = False) -> None:
        previous, bad = self._previous, self._serving
        if previous is None or not previous.is_here:
            raise VersionError("there is no version to go back to: the one before is not kept")
        _log.warning("going back from version %s: %s", bad.name, reason)
        self._end_trial()
        start = self._clock()
        if previous.loaded is not None:
            self._moves.serve(previous)
        else:
            self._exchange(previous, is_proven=True)
        self._serving = previous
        self._observer.on_switch(self._clock() - start)
        self._observer.on_swap("automatic_rollback" if is_automatic else "rolled_back")
        self._previous = None if is_automatic else bad
        if is_automatic:
            self._moves.evict(bad, "the model's version was taken back")
            self._discard(bad, f"went back to version {previous.name}: {reason}")

    def _exchange(self, version: Version, *, is_proven: bool) -> None:
        """Serve a staged version in the place of the one on the device."""
        try:
            self._moves.exchange(
                self._serving, version, is_proven=is_proven, on_fault=self._report_fault
            )
        except GoldenError as error:
            self._discard(version, str(error))
            self._observer.on_swap("failed")
            raise VersionError(f"version {version.name} is not served: {error}") from error

    def _unload(self, version: Version) -> None:
        if version is self._serving:
            raise VersionError(f"version {version.name} is served; promote another first")
        if version is self._previous:
            # Nothing may bring back what is about to go. What has come back meanwhile stays.
            self._end_trial()
            self._raise_if_interrupted()
        self._moves.leave(version)
        self._discard(version, "unloaded")
        if version is self._previous:
            self._previous = None

    def _make_room(self, coming: Version) -> None:
        """Keep no version but the one that is served beside the one that comes."""
        stay = (self._serving, coming)
        for version in [v for v in self._versions if v.is_here and v not in stay]:
            self._unload(version)
        self._raise_if_interrupted()

    def _discard(self, version: Version, reason: str) -> None:
        self._moves.discard(version, reason)
        ended = [version for version in self._versions if version.state == "END"]
        for old in ended[:-_NUM_ENDED]:
            self._versions.remove(old)

    def _begin_trial(self, version: Version) -> None:
        window = self._settings.watch_window
        if window:
            now = self._clock()
            self._trial = _Trial(version, [now + window / 2, now + window])
        else:
            self._end_trial()

    def _end_trial(self) -> None:
        self._trial = None
        self._engine.call(lambda versions: versions.unwatch()).result()

    def _observe_trial(self) -> None:
        """Ask a promoted version again when it is time; at the end of the window it has proved."""
        trial = self._trial
        if trial is None or self._clock() < trial.checks[0]:
            return
        trial.checks.pop(0)
        try:
            self._moves.check(trial.version)
        except GoldenError as error:
            reason = str(error)
            self._do(_Task(lambda: self._roll_back(reason, is_automatic=True)))
            return
        if not trial.checks:
            self._end_trial()

    def _report_fault(self) -> None:
        """Called by the step loop when a request failed on a version in its trial."""
        self._interrupts.set()
        self._put(lambda: self._roll_back("its output was not finite", is_automatic=True))

    def _progress_of(self, version: Version) -> Callable[[float], None]:
        def report(progress: float) -> None:
            version.progress = progress
            self._raise_if_interrupted()

        return report

    def _raise_if_interrupted(self) -> None:
        if self._interrupts.is_set():
            raise VersionError("a rollback came first")

    def _here(self, name: str) -> Version | None:
        return next((v for v in self._versions if v.name == name and v.is_here), None)

    def _find(self, name: str) -> Version:
        if version := self._here(name):
            return version
        raise VersionError(f"version {name or '(none)'} is not loaded; load it first", "not_found")

    def _status(self, version: Version) -> VersionStatus:
        labels = self._labels if version.is_here else {}
        return VersionStatus(
            version=version.name,
            path=version.path,
            state=version.state,
            is_serving=version is self._serving,
            labels=tuple(label for label, name in labels.items() if name == version.name),
            progress=version.progress,
            message=version.message,
        )
