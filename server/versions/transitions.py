"""What can be done to one version: load, stage, prove, serve, exchange, leave, discard.

Each is a few calls to the step loop and to who holds the weights, in the order that keeps every
request on one version. Which of them is done, and when, is the manager's business.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from server.engine.engine import Engine
from server.engine.policy.sequence import LoadedVersion
from server.engine.version_switch import VersionSwitch, Watch
from server.link.frames import VersionState
from server.versions.golden import GoldenClient
from server.versions.version import SwapSettings, Version, VersionError, VersionLoader

_POLL_SECONDS = 0.01
_GOLDEN_SECONDS = 120.0

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Chosen:
    """What is served after a hold."""

    version: Version
    watch: Watch | None = None


class Transitions:
    """For one thread, which may wait: everything here returns when it is done."""

    def __init__(
        self,
        engine: Engine[Any],
        loader: VersionLoader[Any],
        golden: GoldenClient,
        settings: SwapSettings,
        on_change: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._engine, self._loader, self._golden = engine, loader, golden
        self._settings, self._on_change, self._clock = settings, on_change, clock
        self._num_loads = 0

    def inspect(self, version: Version) -> None:
        """Raise ValueError or OSError for what could not be served, before anything goes for it."""
        self._set(version, "LOADING", "looking at it")
        self._loader.inspect(version.path)

    def load(self, version: Version, progress: Callable[[float], None]) -> None:
        """Put it on the device beside what is there, and prove it; any request may then name it.

        Raises ValueError or OSError for what cannot be read, GoldenError for what is wrong.
        """
        self._set(version, "LOADING", "reading weights")
        loaded = version.loaded = self._number(version)
        version.golden = self._loader.load(loaded, version.path, progress)
        self._engine.call(lambda versions: versions.add(loaded)).result()
        self._set(version, "LOADING", "running golden prompts")
        self.check(version)
        self._engine.call(lambda versions: versions.open(loaded)).result()
        self._set(version, "AVAILABLE")

    def stage(self, version: Version, progress: Callable[[float], None]) -> None:
        """Read it into host memory. Raises ValueError or OSError."""
        self._set(version, "LOADING", "reading weights")
        version.staged, version.golden = self._loader.stage(version.path, progress)
        self._set(version, "LOADING", "staged in host memory")

    def check(self, version: Version) -> None:
        """Raise GoldenError unless it generates what it was published with."""
        if version.golden is not None:
            self._golden.check(version.name, version.golden, _GOLDEN_SECONDS)

    def serve(self, version: Version, watch: Watch | None = None) -> None:
        """Switch between two steps to a version that is on the device."""
        loaded = _loaded(version)

        def switch(versions: VersionSwitch) -> None:
            versions.open(loaded)
            versions.serve(loaded, watch)

        self._engine.call(switch).result()
        self._set(version, "AVAILABLE")

    def exchange(
        self, before: Version, version: Version, *, is_proven: bool, on_fault: Callable[[], None]
    ) -> None:
        """Serve a staged version in the place of the one on the device. Requests wait meanwhile.

        GoldenError if it does not prove itself; `before` is then served again.
        """
        self._set(before, "UNLOADING", "its sequences finish")
        with self._on_hold(before) as chosen:
            self._move(before, version)
            try:
                if not is_proven:
                    self.check(version)
            except Exception:
                self._move(version, before)
                raise
            chosen.version = version
            chosen.watch = Watch(_loaded(version), None, on_fault)
        self._set(before, "UNLOADING", "staged in host memory, to go back to")

    def evict(self, version: Version, message: str) -> None:
        """Have nobody run on it: its sequences finish in time or end with `message`."""
        if version.loaded is not None and not self._wait_unused(version):
            self._engine.end(version.loaded, message)
            self._wait_unused(version)

    def leave(self, version: Version) -> None:
        """Have nobody run on it, ending none; VersionError if somebody still does after a time."""
        loaded = version.loaded
        if loaded is None:
            return
        self._set(version, "UNLOADING", "waiting for its sequences")
        self._engine.call(lambda versions: versions.close(loaded)).result()
        if not self._wait_unused(version):
            self._engine.call(lambda versions: versions.open(loaded)).result()
            self._set(version, "AVAILABLE")
            raise VersionError(
                f"version {version.name} still has sequences after "
                f"{self._settings.swap_timeout:g} s; try again when they have ended"
            )

    def discard(self, version: Version, reason: str) -> None:
        """The end of a version that nobody uses."""
        if (loaded := version.loaded) is not None:
            self._engine.call(lambda versions: versions.remove(loaded)).result()
            self._loader.drop(loaded)
        if version.staged is not None:
            self._loader.forget(version.staged)
        version.loaded = version.staged = None
        self._set(version, "END", reason)

    @contextmanager
    def _on_hold(self, before: Version) -> Iterator[_Chosen]:
        """Requests that have not begun wait until the end of the block, and then run on its choice.

        That is `before` until the block chooses another.
        """
        loaded = _loaded(before)

        def hold(versions: VersionSwitch) -> None:
            versions.close(loaded)
            versions.serve(None)

        self._engine.call(hold).result()
        chosen = _Chosen(before)
        try:
            self.evict(before, "the model's version was changed")
            yield chosen
        finally:
            self.serve(chosen.version, chosen.watch)

    def _move(self, out: Version, into: Version) -> None:
        """The one's weights leave the device, the other's take their place."""
        old, new = _loaded(out), self._number(into)
        self._set(into, "LOADING", "moving to the device")
        self._engine.call(lambda versions: versions.remove(old)).result()
        try:
            self._loader.exchange(old, new, into.staged)
        except Exception as error:
            # Neither version is whole any more: nothing here could serve.
            self._engine.fail(error)
            raise
        self._engine.call(lambda versions: versions.add(new)).result()
        out.staged, out.loaded = into.staged, None
        into.staged, into.loaded = None, new

    def _wait_unused(self, version: Version) -> bool:
        loaded, deadline = _loaded(version), self._clock() + self._settings.swap_timeout
        while self._engine.call(lambda versions: versions.num_users(loaded)).result():
            if self._clock() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def _number(self, version: Version) -> LoadedVersion:
        self._num_loads += 1
        return LoadedVersion(version.name, self._num_loads)

    def _set(self, version: Version, state: VersionState, message: str = "") -> None:
        version.state, version.message = state, message
        _log.info(
            "version %s is %s", version.name, state, extra={"detail": message, "path": version.path}
        )
        self._on_change()


def _loaded(version: Version) -> LoadedVersion:
    if version.loaded is None:
        raise VersionError(f"version {version.name} is not on the device", "internal")
    return version.loaded
