"""What the model configuration file asks for: which version is loaded and served, and if it fails.

A file that cannot be followed for a reason that may pass is tried again later, until a command or
a bad version changes what is served. Knows neither threads nor how a version is loaded or served.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from server.link.frames import SwapPolicy
from server.versions.model_file.model_file import ModelFile
from server.versions.records import VersionRecords
from server.versions.retry import Retry
from server.versions.version import Version, VersionError

_log = logging.getLogger(__name__)


class Load(Protocol):
    """Loads and proves a version; VersionError if that cannot be."""

    def __call__(
        self, name: str, path: str, policy: SwapPolicy, *, is_twin_allowed: bool = False
    ) -> None: ...


class FileFollower:
    """`accept` and `reject` are for any thread, all else for the manager's.

    `policy` is the newest file's, or `default_policy` where it has none.
    """

    def __init__(
        self,
        records: VersionRecords,
        default_policy: SwapPolicy,
        clock: Callable[[], float],
        *,
        load: Load,
        promote: Callable[[Version], None],
    ) -> None:
        self._records, self._default_policy = records, default_policy
        self._load, self._promote = load, promote
        self.policy = default_policy
        self.retry = Retry(clock)
        # What is wrong with the file itself, and why it could not be followed.
        self._file_error = self._follow_error = ""

    @property
    def error(self) -> str:
        """Why the file is not followed; empty if it is."""
        return self._file_error or self._follow_error

    def accept(self) -> None:
        """The file can be read; `follow` comes next."""
        self._file_error = ""

    def reject(self, reason: str) -> None:
        """The file cannot be followed; nothing changes. Empty: it can again."""
        if reason:
            _log.error("the model configuration file is not followed: %s", reason)
        self._file_error = reason

    def follow(self, file: ModelFile) -> None:
        """Become what the file says; if that fails for a reason that may pass, try again later."""
        self._follow_error = ""
        self.policy = file.swap_policy or self._default_policy
        try:
            self._serve_wanted(file)
            self._load_labelled(file)
            self.retry.end()
        except (VersionError, ValueError) as error:
            self._note_failure(file, error, str(error))
            raise VersionError(
                f"the model configuration file is not followed: {self._follow_error}"
            ) from error
        except Exception as error:
            self._note_failure(file, error, f"{error!r}; the log says more")
            raise
        finally:
            here = {version.name for version in self._records.all_here()}
            self._records.labels = {label: of for label, of in file.labels.items() if of in here}

    def give_up(self, why: str) -> None:
        """What was done after the file failed holds until the file changes."""
        if self.retry.is_planned:
            self.retry.end()
            self._follow_error = (
                f"what it asks for could not be loaded, and then {why}: the server follows the "
                "file again when it changes"
            )

    def note_fault(self, error: Exception) -> None:
        """The thread that follows the file has failed."""
        self._follow_error = f"the thread that changes versions failed: {error!r}; see the log"

    def _note_failure(self, file: ModelFile, error: Exception, reason: str) -> None:
        more = self.retry.plan(file, error)
        self._follow_error = reason + more
        self._records.say_of_last(reason, more)

    def _serve_wanted(self, file: ModelFile) -> None:
        """Serve the version that the file asks for, from the path that it gives."""
        name = file.wanted_version()
        _check_versions_of_labels(file, name)
        path, served = file.path_of(name), self._records.served()
        if served.name == name and served.is_at(path):
            return
        if self._records.at(name, path) is None:
            self._load(name, path, self.policy, is_twin_allowed=True)
        if version := self._records.at(name, path):
            self._promote(version)

    def _load_labelled(self, file: ModelFile) -> None:
        for name in sorted(set(file.labels.values()) - {file.wanted_version()}):
            if self._records.here(name) is None:
                self._load(name, file.path_of(name), "availability")


def _check_versions_of_labels(file: ModelFile, name: str) -> None:
    others = sorted(set(file.labels.values()) - {name})
    if len(others) > 1:
        raise VersionError(
            f"labels name versions {' and '.join(others)} next to version {name}, which is served: "
            "a server keeps one version next to that, so let labels name one other version"
        )
