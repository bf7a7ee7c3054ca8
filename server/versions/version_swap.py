"""How one change of versions is done: load, promote, go back, take back, unload.

Each is some calls to the step loop and to the loader, in the order that keeps every request on one
version. A change returns when it is done, or raises. Knows neither commands nor the model
configuration file: the manager decides which change is done, and when.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from server.engine.engine import Engine
from server.engine.policy.sequences.sequence import LoadedVersion
from server.engine.policy.served_versions import Watch
from server.link.frames import SwapPolicy
from server.link.status import VersionState
from server.versions.golden import GoldenClient, GoldenError
from server.versions.version import BusyError, SwapSettings, Version, VersionError, VersionLoader

_POLL_SECONDS = 0.01
_GOLDEN_SECONDS = 120.0

_log = logging.getLogger(__name__)


class VersionSwap:
    """For one thread, which may wait. `interrupted`, set by any thread, ends a load."""

    def __init__(
        self,
        engine: Engine[Any],
        loader: VersionLoader[Any],
        golden: GoldenClient,
        settings: SwapSettings,
        interrupted: threading.Event,
        on_change: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._engine, self._loader, self._golden = engine, loader, golden
        self._settings, self._interrupted = settings, interrupted
        self._on_change, self._clock = on_change, clock
        self._num_loads = 0

    def load(self, version: Version, policy: SwapPolicy, leaving: Sequence[Version]) -> None:
        """Read a version, and prove it where it is put on the device; `leaving` leave.

        They leave before weights are read only where the memory is not enough for them too.

        Raises ValueError or OSError for a version that cannot be read, GoldenError for wrong
        weights, and VersionError if a version does not leave or the load was interrupted. The
        version has then ended.
        """
        try:
            # A version that is refused must not cost the version to go back to.
            self._set(version, "LOADING", "looking at it")
            self._loader.inspect(version.path)
            if policy == "availability":
                self._unload_all(leaving)
                self._load_beside(version)
            elif self._has_room_beside(leaving):
                self._stage(version)
                self._unload_all(leaving)
            else:
                self._unload_all(leaving)
                self._stage(version)
        except Exception as error:
            self._discard(version, str(error) or repr(error))
            raise

    def _has_room_beside(self, leaving: Sequence[Version]) -> bool:
        """Whether host memory holds one more version. ValueError if `leaving` were not enough."""
        num_staged = sum(each.staged is not None for each in leaving)
        self._loader.check_room(num_staged, num_staged)
        try:
            self._loader.check_room(num_staged, 0)
        except ValueError:
            return False
        return True

    def _unload_all(self, leaving: Sequence[Version]) -> None:
        for each in leaving:
            self.unload(each)
        self._raise_if_interrupted()

    def keep(self, version: Version) -> None:
        """A rollback serves it from now on."""
        self._engine.call(lambda changes: changes.versions.keep(version.key)).result()

    def promote(self, before: Version, version: Version) -> Watch | None:
        """Serve a version in the place of `before`; its watch if it is on trial.

        GoldenError for wrong weights: the version has then ended, and `before` is served.
        """
        self._end_watch()
        try:
            return self._replace(before, version, is_proven=False)
        except GoldenError as error:
            self._discard(version, str(error))
            raise

    def go_back(self, bad: Version, version: Version) -> None:
        """Serve a version that was served before, and keep `bad`."""
        self._end_watch()
        self._replace(bad, version, is_proven=True)

    def take_back(self, bad: Version, version: Version, reason: str) -> None:
        """Serve a version in the place of `bad`, unless the step loop does already; end `bad`."""
        if self._engine.versions.served != version.key:
            self._replace(bad, version, is_proven=True)
        self._evict(bad, "the model's version was taken back")
        self._discard(bad, f"went back to version {version.name}: {reason}")

    def unload(self, version: Version) -> None:
        """Free a version. VersionError if it is still in use after a time, or is served again."""
        if version.key == self._engine.versions.previous:
            # Nothing may bring back what is about to go. What has come back meanwhile stays.
            self._end_watch()
            self._raise_if_interrupted()
        self._leave(version)
        self._discard(version, "unloaded")

    def check(self, version: Version) -> None:
        """Raise GoldenError unless it generates what it was published with."""
        if version.golden is not None:
            self._golden.check(version.key, version.golden, _GOLDEN_SECONDS)

    def unwatch(self) -> bool:
        """End the trial of the version that is served. Whether a fault had ended it before."""
        return self._engine.call(lambda changes: changes.versions.unwatch()).result()

    def _end_watch(self) -> None:
        if self.unwatch():
            raise VersionError("a rollback came first")

    def _raise_if_interrupted(self) -> None:
        if self._interrupted.is_set():
            raise VersionError("a rollback came first")

    def _load_beside(self, version: Version) -> None:
        """Put it on the device next to the others and prove it; any request may then name it."""
        self._set(version, "LOADING", "reading weights")
        loaded = self._number(version)
        try:
            version.golden = self._loader.load(loaded, version.path, self._progress_of(version))
        except Exception:
            self._loader.drop(loaded)
            raise
        self._engine.call(lambda changes: changes.versions.add(loaded)).result()
        self._set(version, "LOADING", "running golden prompts")
        self.check(version)
        if self._has_twin(loaded):
            # Two of one version would be one name for two sets of weights.
            self._set(version, "LOADING", "proved; requests get it once it is served")
            return
        self._engine.call(lambda changes: changes.versions.open(loaded)).result()
        self._set(version, "AVAILABLE")

    def _has_twin(self, loaded: LoadedVersion) -> bool:
        """Whether the version that is served has the same name, from another path."""
        served = LoadedVersion(self._engine.versions.served)
        return served.name != loaded.name and served.version == loaded.version

    def _stage(self, version: Version) -> None:
        """Read it into host memory."""
        self._set(version, "LOADING", "reading weights")
        progress = self._progress_of(version)
        version.staged, version.golden = self._loader.stage(version.path, progress)
        self._set(version, "LOADING", "staged in host memory")

    def _progress_of(self, version: Version) -> Callable[[float], None]:
        def report(progress: float) -> None:
            version.progress = progress
            self._raise_if_interrupted()

        return report

    def _replace(self, before: Version, version: Version, *, is_proven: bool) -> Watch | None:
        """Serve a version in the place of `before`, from the device or from host memory.

        A version that is proven is not watched. GoldenError for one that does not prove itself.
        """
        is_watched = not is_proven and self._settings.watch_window > 0
        if self._is_on_device(version):
            watch = self._serve(version, is_watched=is_watched)
            self._close_twin(before)
            return watch
        self._set(before, "UNLOADING", "its sequences finish")
        self._engine.call(lambda changes: changes.hold()).result()
        try:
            self._evict(before, "the model's version was changed")
            self._exchange(before, version, is_proven=is_proven)
        except Exception:
            # After a failed exchange neither version is on the device, and the engine ends.
            if self._is_on_device(before):
                self._serve(before)
            raise
        watch = self._serve(version, is_watched=is_watched)
        self._set(before, "UNLOADING", "staged in host memory, to go back to")
        return watch

    def _close_twin(self, before: Version) -> None:
        """What was served, and has the name of what is: kept, and named by no request."""
        loaded = self._engine.versions.loaded(before.key)
        if loaded is not None and self._has_twin(loaded):
            self._engine.call(lambda changes: changes.versions.close(loaded)).result()
            self._set(before, "UNLOADING", "kept on the device, to go back to")

    def _serve(self, version: Version, *, is_watched: bool = False) -> Watch | None:
        """Switch between two steps to a version that is on the device."""
        loaded = self._loaded(version)
        call = self._engine.call(lambda changes: changes.serve(loaded, is_watched=is_watched))
        watch = call.result()
        self._set(version, "AVAILABLE")
        return watch

    def _exchange(self, before: Version, version: Version, *, is_proven: bool) -> None:
        """Move a staged version to the device and prove it, or move `before` there again."""
        self._move(before, version)
        try:
            if not is_proven:
                self.check(version)
        except Exception:
            self._move(version, before)
            raise

    def _move(self, out: Version, into: Version) -> None:
        """The weights of `out` leave the device, those of `into` take their place."""
        old, new = self._loaded(out), self._number(into)
        self._set(into, "LOADING", "moving to the device")
        self._engine.call(lambda changes: changes.remove(old)).result()
        try:
            self._loader.exchange(old, new, into.staged)
        except Exception as error:
            # Neither version is whole any more: nothing here could serve.
            self._engine.fail(error)
            raise
        self._engine.call(lambda changes: changes.versions.add(new)).result()
        out.staged, into.staged = into.staged, None

    def _evict(self, version: Version, message: str) -> None:
        """Have nobody run on it: its sequences finish in time or end with `message`."""
        loaded = self._engine.versions.loaded(version.key)
        if loaded is not None and not self._wait_unused(loaded):
            self._engine.end(loaded, message)
            self._wait_unused(loaded)

    def _leave(self, version: Version) -> None:
        """Have nobody run on it, ending none; VersionError if somebody still does after a time."""
        loaded = self._engine.versions.loaded(version.key)
        if loaded is None:
            return
        state, message = version.state, version.message
        self._set(version, "UNLOADING", "waiting for its sequences")
        was_open = self._engine.call(lambda changes: changes.versions.close(loaded)).result()
        if not self._wait_unused(loaded):
            if was_open:
                self._engine.call(lambda changes: changes.versions.open(loaded)).result()
            self._set(version, state, message)
            raise BusyError(
                f"version {version.name} still has sequences after "
                f"{self._settings.swap_timeout:g} s; try again when they have ended"
            )

    def _discard(self, version: Version, reason: str) -> None:
        """The end of a version that nobody uses."""
        loaded = self._engine.versions.loaded(version.key)
        self._engine.call(lambda changes: changes.forget(version.key)).result()
        if loaded is not None:
            self._loader.drop(loaded)
        if version.staged is not None:
            self._loader.forget(version.staged)
            version.staged = None
        self._set(version, "END", reason)

    def _wait_unused(self, loaded: LoadedVersion) -> bool:
        deadline = self._clock() + self._settings.swap_timeout
        while self._engine.call(lambda changes: changes.num_users(loaded)).result():
            if self._clock() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def _number(self, version: Version) -> LoadedVersion:
        self._num_loads += 1
        return LoadedVersion(version.key, self._num_loads)

    def _is_on_device(self, version: Version) -> bool:
        return self._engine.versions.loaded(version.key) is not None

    def _loaded(self, version: Version) -> LoadedVersion:
        loaded = self._engine.versions.loaded(version.key)
        if loaded is None:
            raise VersionError(f"version {version.name} is not on the device", "internal")
        return loaded

    def _set(self, version: Version, state: VersionState, message: str = "") -> None:
        version.state, version.message = state, message
        _log.info(
            "version %s is %s", version.name, state, extra={"detail": message, "path": version.path}
        )
        self._on_change()
