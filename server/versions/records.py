"""The record of every version that is or was here: by name, by path, and by what is served.

`ServedVersions` says which loaded version is served and which one a rollback serves; the records
say what is known of it. Nothing here changes a version.
"""

from __future__ import annotations

from collections.abc import Iterator

from server.engine.policy.served_versions import ServedVersions
from server.link.status import VersionStatus
from server.versions.version import Version, VersionError

# Versions that ended are shown until so many others have.
_NUM_ENDED = 8


class VersionRecords:
    """In the order in which versions came. One thread changes it; any thread may read statuses."""

    def __init__(self, owner: ServedVersions, first: Version) -> None:
        self._owner = owner
        self._versions: tuple[Version, ...] = (first,)
        self._num_twins = 0
        self.labels: dict[str, str] = {}

    def statuses(self) -> tuple[VersionStatus, ...]:
        """Every version, the one that is served first."""
        served = self._owner.served
        versions = sorted(self._versions, key=lambda version: version.key != served)
        return tuple(self._status(version, served) for version in versions)

    def begin(self, name: str, path: str) -> Version:
        """A version that is about to be loaded. A twin of one that is here has another key."""
        key = name
        if self.here(name):
            self._num_twins += 1
            key = f"{name}~{self._num_twins}"
        version = Version(name, path, key=key)
        # What came of an earlier loading of it is no news any more.
        known = [each for each in self._versions if each.name != name or self.is_here(each)]
        self._versions = (*known, version)
        return version

    def begin_again(self, gone: Version) -> Version:
        """A version that was here, in the place of its old record."""
        version = Version(gone.name, gone.path, key=gone.key, asked=gone.asked)
        self._versions = (version, *(each for each in self._versions if each is not gone))
        return version

    def say_of_last(self, reason: str, more: str) -> None:
        """Add to the message of the newest version, if that ended for this reason."""
        last = self._versions[-1]
        if last.state == "END" and last.message and last.message in reason:
            last.message += more

    def forget_ended(self) -> None:
        """Keep the records of the last few versions that ended."""
        ended = [version for version in self._versions if version.state == "END"]
        old = ended[:-_NUM_ENDED]
        self._versions = tuple(version for version in self._versions if version not in old)

    def is_here(self, version: Version) -> bool:
        """Whether its weights are on the device or in host memory."""
        on_device = self._owner.loaded(version.key)
        return version.staged is not None or on_device is not None

    def all_here(self) -> Iterator[Version]:
        """Every version that is here."""
        return filter(self.is_here, self._versions)

    def here(self, name: str) -> Version | None:
        """The version of that name that is here; of two of them the one that is served."""
        found = [version for version in self.all_here() if version.name == name]
        return max(found, key=self.is_served, default=None)

    def at(self, name: str, path: str) -> Version | None:
        """The version of that name that was read from that path, if it is here."""
        found = (version for version in self.all_here() if version.name == name)
        return next((version for version in found if version.is_at(path)), None)

    def find(self, name: str) -> Version:
        """`here`; VersionError where there is none."""
        if version := self.here(name):
            return version
        raise VersionError(f"version {name or '(none)'} is not loaded; load it first", "not_found")

    def is_served(self, version: Version) -> bool:
        """Whether requests that name no version get it."""
        return version.key == self._owner.served

    def served(self) -> Version:
        """The version that is served; VersionError where it is not here."""
        if version := self._keyed(self._owner.served):
            return version
        name = self._owner.served or "(none)"
        raise VersionError(f"version {name} is not loaded; load it first", "not_found")

    def previous(self) -> Version:
        """The version that a rollback serves; VersionError where there is none."""
        previous = self._owner.previous
        version = None if previous is None else self._keyed(previous)
        if version is None:
            raise VersionError("there is no version to go back to: the one before is not kept")
        return version

    def _keyed(self, key: str) -> Version | None:
        return next((version for version in self.all_here() if version.key == key), None)

    def _status(self, version: Version, served: str) -> VersionStatus:
        labels = {} if version.state == "END" else self.labels
        return VersionStatus(
            version=version.name,
            path=version.path,
            state=version.state,
            is_serving=version.key == served,
            labels=tuple(label for label, name in labels.items() if name == version.name),
            progress=version.progress,
            message=version.message,
        )
