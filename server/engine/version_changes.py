"""Changes of versions that concern sequences too: serve, hold, remove, fall back.

Each happens between two steps and changes the owner of the versions and the scheduler together.
Knows neither where weights come from nor whether they are good.
"""

from __future__ import annotations

from server.engine.policy.data_ranks import Ranks
from server.engine.policy.sequences.sequence import LoadedVersion
from server.engine.policy.served_versions import Watch


class VersionChanges:
    """Belongs to the step loop. `versions` may be changed directly where no sequence matters.

    `adapters` may always be: a sequence keeps the adapter that it was taken in with.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self.versions, self.adapters = ranks.versions, ranks.adapters

    def serve(self, version: LoadedVersion, *, is_watched: bool = False) -> Watch | None:
        """Requests that name no version and have not begun run on it. Its watch if it has one."""
        watch = self.versions.serve(version, is_watched=is_watched)
        self._ranks.retarget()
        return watch

    def hold(self) -> None:
        """Requests that name no version and have not begun wait until a version is served."""
        self.versions.hold()
        self._ranks.retarget()

    def remove(self, version: LoadedVersion) -> None:
        """Its weights are about to leave the device. ValueError while sequences run on it."""
        if self._ranks.users(version):
            raise ValueError(f"version {version.name} is still in use")
        self.versions.remove(version)

    def forget(self, name: str) -> None:
        """A version goes for good, from the device too if it is there. ValueError as `remove`."""
        if version := self.versions.loaded(name):
            self.remove(version)
        self.versions.forget(name)

    def num_users(self, version: LoadedVersion) -> int:
        """Unfinished sequences that run on it or have to."""
        return len(self._ranks.users(version))

    def on_fault(self, version: LoadedVersion) -> None:
        """A request failed on `version`. If that is on trial, fall back at once, in this step."""
        if watch := self.versions.fall_back(version):
            self._ranks.retarget()
            self._ranks.withdraw(version)
            watch.fault.set_result(None)
