"""The model configuration file: which version of which model, under which labels, swapped how.

In a cluster it is a mounted ConfigMap, replaced by swapping a symlink, so it is watched by content.
Half a file, or a wrong one, changes nothing. This module loads no model.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec
import yaml

from models.checkpoint.gcs import GcsError, GcsFiles, is_gcs
from models.checkpoint.manifest import NAME as MANIFEST

_POLL_SECONDS = 0.5


class ModelFileError(ValueError):
    """A model configuration file that cannot be used; the message says what is wrong with it."""


class _File(msgspec.Struct, forbid_unknown_fields=True):
    """The file as it is written."""

    name: str
    path: str
    version: str | int | None = None
    policy: Literal["latest"] | None = None
    labels: dict[str, str | int] = {}
    swap_policy: Literal["availability", "resource"] | None = None


@dataclass(frozen=True, slots=True)
class ModelFile:
    """What the file says. `version` None is the highest under `path` that was published."""

    name: str
    path: str
    version: str | None
    labels: dict[str, str] = field(default_factory=dict)
    swap_policy: Literal["availability", "resource"] | None = None

    def path_of(self, version: str) -> str:
        """Where a version lies."""
        return f"{self.path.rstrip('/')}/{version}"

    def wanted_version(self) -> str:
        """The version to be served; ModelFileError where none was published."""
        if self.version is not None:
            return self.version
        try:
            published = [name for name in self._folders() if self._is_published(name)]
        except (OSError, GcsError) as error:
            raise ModelFileError(f"{self.path} cannot be listed: {error}") from error
        if not published:
            raise ModelFileError(f"{self.path} holds no published version")
        return max(published, key=int)

    def _folders(self) -> list[str]:
        if is_gcs(self.path):
            names = GcsFiles(self.path).folders()
        else:
            names = [entry.name for entry in Path(self.path).iterdir()]
        return list(filter(is_version, names))

    def _is_published(self, version: str) -> bool:
        if is_gcs(self.path):
            return MANIFEST in GcsFiles(self.path_of(version)).names()
        return (Path(self.path_of(version)) / MANIFEST).exists()


def is_version(name: str) -> bool:
    """Whether a folder's name is a version's."""
    return name.isascii() and name.isdigit()


def parse_model_config(content: bytes) -> ModelFile:
    """What the file says; ModelFileError if it says nothing that can be done."""
    try:
        found = msgspec.convert(yaml.safe_load(content.decode()), _File)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ModelFileError(f"it is not YAML: {' '.join(str(error).split())}") from error
    except msgspec.ValidationError as error:
        raise ModelFileError(f"it is not right: {error}") from error
    if not content.endswith(b"\n"):
        raise ModelFileError("its last line does not end: it may be half written")
    if (found.version is None) == (found.policy is None):
        raise ModelFileError("give either version or policy: latest")
    labels = {label: str(version) for label, version in found.labels.items()}
    version = None if found.version is None else str(found.version)
    for name in (*labels.values(), *([] if version is None else [version])):
        if not is_version(name):
            raise ModelFileError(f"version {name!r} is no whole number")
    if not found.name or "@" in found.name:
        raise ModelFileError("name must not be empty or hold an @")
    return ModelFile(found.name, found.path, version, labels, found.swap_policy)


def read_model_config(path: Path) -> ModelFile:
    """The same from a file; ModelFileError if it cannot be read."""
    try:
        return parse_model_config(path.read_bytes())
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error}") from error


class ModelConfigWatcher:
    """Tells of every new content that has stood still for one look, and of every wrong one.

    Where the file asks for the latest version, also tells when that has become another.
    """

    def __init__(
        self,
        path: Path,
        on_file: Callable[[ModelFile], object],
        on_error: Callable[[str], object],
    ) -> None:
        self._path, self._on_file, self._on_error = path, on_file, on_error
        self._seen: bytes | None = None
        self._done: bytes | None = None
        self._latest: ModelFile | None = None
        self._latest_version = ""
        self._reason = ""
        self._thread = threading.Thread(target=self._run, name="model-config", daemon=True)

    def start(self) -> None:
        """Look again and again, on a thread of its own."""
        self._thread.start()

    def look(self) -> None:
        """Read the file once more."""
        try:
            content = self._path.read_bytes()
        except OSError as error:
            self._report(f"it cannot be read: {error}")
            return
        if content == self._seen and content != self._done:
            self._done = content
            self._take(content)
        elif self._latest is not None:
            self._look_for_latest(self._latest)
        self._seen = content

    def _take(self, content: bytes) -> None:
        self._latest = None
        try:
            file = parse_model_config(content)
        except ModelFileError as error:
            self._report(str(error))
            return
        self._reason = ""
        if file.version is None:
            self._latest, self._latest_version = file, ""
            self._look_for_latest(file)
        else:
            self._on_file(file)

    def _look_for_latest(self, file: ModelFile) -> None:
        try:
            version = file.wanted_version()
        except ModelFileError as error:
            self._report(str(error))
            return
        if version != self._latest_version:
            self._latest_version = version
            self._on_file(file)

    def _report(self, reason: str) -> None:
        if reason != self._reason:
            self._on_error(reason)
        self._reason = reason

    def _run(self) -> None:
        while True:
            self.look()
            time.sleep(_POLL_SECONDS)
