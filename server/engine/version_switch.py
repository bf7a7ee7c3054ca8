"""Which loaded versions requests run on: opened, served, watched, closed. Belongs to the step loop.

Everything here happens between two steps. It knows versions by name and number; where weights come
from, whether they are good and what becomes of them is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from server.engine.policy.admission import AdmissionError
from server.engine.policy.ranks import Ranks
from server.engine.policy.sequence import LoadedVersion


@dataclass(frozen=True, slots=True)
class Watch:
    """What to do at the first request that fails on `version`: serve `fallback`, and tell.

    With no fallback at hand (None), requests wait until something is served again.
    """

    version: LoadedVersion
    fallback: LoadedVersion | None
    on_fault: Callable[[], None]


class VersionSwitch:
    """The versions whose weights are on the device, and the one that is served."""

    def __init__(self, scheduler: Ranks) -> None:
        self._scheduler = scheduler
        self._loaded: dict[str, LoadedVersion] = {}
        self._open: set[LoadedVersion] = set()
        self._watch: Watch | None = None

    @property
    def serving(self) -> LoadedVersion | None:
        return self._scheduler.serving

    def add(self, version: LoadedVersion) -> None:
        """Its weights are on the device: the engine's own requests may name it."""
        self._loaded[version.name] = version

    def open(self, version: LoadedVersion) -> None:
        """Any request may name it."""
        self._open.add(version)

    def close(self, version: LoadedVersion) -> None:
        """No request may name it any more; those that did go on."""
        self._open.discard(version)

    def remove(self, version: LoadedVersion) -> None:
        """Its weights are about to leave the device; nobody may run on it, now or next."""
        if self._scheduler.users(version) or version == self.serving:
            raise ValueError(f"version {version.name} is still in use")
        self.close(version)
        self._loaded.pop(version.name, None)

    def serve(self, version: LoadedVersion | None, watch: Watch | None = None) -> None:
        """Requests that name no version and have not begun run on it; on None they wait."""
        self._watch = watch
        self._scheduler.serve(version)

    def num_users(self, version: LoadedVersion) -> int:
        """Unfinished sequences that run on it or have to."""
        return len(self._scheduler.users(version))

    def unwatch(self) -> None:
        """What is served has proved itself."""
        self._watch = None

    def find(self, name: str | None, *, may_be_closed: bool = False) -> LoadedVersion | None:
        """The version a request names, None where it names none; AdmissionError if it is not here.

        `may_be_closed` also finds what is loaded but not for everybody.
        """
        if name is None:
            return None
        version = self._loaded.get(name)
        if version is None or not (may_be_closed or version in self._open):
            raise AdmissionError("not_found", f"version {name} of the model is not loaded here")
        return version

    def on_fault(self, version: LoadedVersion) -> None:
        """A request failed on `version`. If that is watched, go back at once, within this step."""
        watch = self._watch
        if watch is None or watch.version != version:
            return
        self.close(version)
        self.serve(watch.fallback)
        self._scheduler.withdraw(version)
        watch.on_fault()
