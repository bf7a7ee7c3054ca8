"""Which versions are on the device, which of them requests may name, and which one is served.

This is the only place that holds these facts. The step loop changes them between two steps; any
thread may read them, for every value is replaced as a whole. Knows neither weights nor sequences.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field

from server.engine.policy.admission import AdmissionError
from server.engine.policy.sequences.sequence import LoadedVersion


@dataclass(frozen=True, slots=True, eq=False)
class Watch:
    """A version on trial: at its first fault the step loop serves `fallback` again.

    Without a fallback on the device (None), requests wait until a version is served again. `fault`
    is done once a fault has ended the trial.
    """

    version: LoadedVersion
    fallback: LoadedVersion | None
    fault: Future[None] = field(default_factory=Future)


class ServedVersions:
    """Starts with one version, loaded, open and served. Versions on the device differ in name."""

    def __init__(self, first: LoadedVersion) -> None:
        self._loaded = {first.name: first}
        self._open = frozenset({first})
        self._served = first.name
        self._previous: str | None = None
        self._is_held = False
        self._watch: Watch | None = None

    @property
    def served(self) -> str:
        """The name of the version that is served. It stays the same while requests wait."""
        return self._served

    @property
    def serving(self) -> LoadedVersion | None:
        """What a request that names no version begins on; on None such requests wait."""
        return None if self._is_held else self._loaded.get(self._served)

    def meant_by(self, named: LoadedVersion | None) -> LoadedVersion | None:
        """What a sequence runs on next that is bound to `named`, or to none yet."""
        return named or self.serving

    @property
    def previous(self) -> str | None:
        """The name of the version that a rollback serves, None where there is none."""
        return self._previous

    @property
    def watch(self) -> Watch | None:
        return self._watch

    def loaded(self, name: str) -> LoadedVersion | None:
        """The version of that name on the device, None where it is not there."""
        return self._loaded.get(name)

    def find(self, name: str | None, *, may_be_closed: bool = False) -> LoadedVersion | None:
        """The version a request names, None where it names none; AdmissionError if it is not here.

        Of two of one version a request means the one that is served. With `may_be_closed`, `name`
        is that of a loaded version, which need not be open.
        """
        if name is None:
            return None
        version = self._loaded.get(name) if may_be_closed else self._named(name)
        if version is None:
            raise AdmissionError("not_found", f"version {name} of the model is not loaded here")
        return version

    def _named(self, name: str) -> LoadedVersion | None:
        found = [each for each in self._open if each.version == name]
        return max(found, key=lambda each: (each.name == self._served, each.number), default=None)

    def add(self, version: LoadedVersion) -> None:
        """Its weights are on the device: the engine's own requests may name it."""
        self._loaded = {**self._loaded, version.name: version}

    def open(self, version: LoadedVersion) -> None:
        """Any request may name it."""
        self._open |= {version}

    def close(self, version: LoadedVersion) -> bool:
        """No request may name it any more; the requests that did go on. Whether one could."""
        was_open = version in self._open
        self._open -= {version}
        return was_open

    def remove(self, version: LoadedVersion) -> None:
        """Its weights are about to leave the device. ValueError for what is serving."""
        if version == self.serving:
            raise ValueError(f"version {version.name} is served")
        self.close(version)
        self._loaded = {name: each for name, each in self._loaded.items() if each != version}

    def forget(self, name: str) -> None:
        """No rollback serves it any more."""
        if name == self._previous:
            self._previous = None

    def keep(self, name: str) -> None:
        """A rollback serves it."""
        self._previous = name

    def serve(self, version: LoadedVersion, *, is_watched: bool = False) -> Watch | None:
        """Serve a version that is on the device, and open it; its watch if it is on trial.

        A version that takes the place of another is the one that can be on trial. ValueError for a
        version that is not on the device.
        """
        if self._loaded.get(version.name) != version:
            raise ValueError(f"version {version.name} is not on the device")
        before = self.serving
        self._watch = Watch(version, before) if is_watched and before != version else None
        if version.name != self._served:
            self._previous = self._served
        self._served, self._is_held = version.name, False
        self.open(version)
        return self._watch

    def hold(self) -> None:
        """Close what is served; requests that name no version wait until one is served."""
        if serving := self.serving:
            self.close(serving)
        self._is_held = True
        self._watch = None

    def unwatch(self) -> bool:
        """End the trial. Whether a fault had ended it before."""
        watch, self._watch = self._watch, None
        return watch is not None and watch.fault.done()

    def fall_back(self, version: LoadedVersion) -> Watch | None:
        """A fault of `version`: if that is on trial, serve its fallback. The watch that saw it.

        The watch stays until it is ended, so that `unwatch` can say what came of it.
        """
        watch = self._watch
        if watch is None or watch.version != version or watch.fault.done():
            return None
        if watch.fallback is None:
            self.hold()
        else:
            self.close(version)
            self.serve(watch.fallback)
            self._previous = None
        self._watch = watch
        return watch
