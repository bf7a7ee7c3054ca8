"""The model configuration file: which version of which model, under which labels, swapped how.

Whatever the file holds, it is read within bounded time and memory, and a file that cannot be
followed is refused in one sentence. This module watches nothing and loads no model.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from models.checkpoint.gcs import GcsFiles, is_gcs
from models.checkpoint.manifest import NAME as MANIFEST
from server.versions.model_file.plain_yaml import PlainYamlError, read_plain_yaml

MAX_BYTES = 64 << 10
# The newest version of an adapter.
LATEST = "latest"
# A version fits in 63 bits, whoever reads it as a number.
_MAX_VERSION_DIGITS = 18
_MAX_NAME_CHARS = 4096
_MAX_MESSAGE_CHARS = 300
_MAX_QUOTED_CHARS = 60
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class ModelFileError(ValueError):
    """A model configuration file that cannot be used; the message says why, in one sentence."""

    def __init__(self, message: str) -> None:
        super().__init__(_one_sentence(message))


class _File(msgspec.Struct, forbid_unknown_fields=True):
    """The file as it is written."""

    name: str
    path: str
    version: str | None = None
    policy: Literal["latest"] | None = None
    labels: dict[str, str] = {}
    adapters: dict[str, str] = {}
    swap_policy: Literal["availability", "resource"] | None = None


@dataclass(frozen=True, slots=True)
class ModelFile:
    """What the file says. `version` None is the highest under `path` that was published.

    `adapters` has the version of each adapter, or `latest`.
    """

    name: str
    path: str
    version: str | None
    labels: dict[str, str] = field(default_factory=dict)
    swap_policy: Literal["availability", "resource"] | None = None
    adapters: dict[str, str] = field(default_factory=dict)

    def path_of(self, version: str) -> str:
        """Where a version lies."""
        return f"{self.path.rstrip('/')}/{version}"

    def wanted_version(self) -> str:
        """The version to be served; ModelFileError where none was published."""
        if self.version is not None:
            return self.version
        try:
            published = [name for name in self._folders() if self._is_published(name)]
        except (OSError, ValueError) as error:
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
    """Whether a folder's name is a version's: a whole number as one would write it.

    01 is none: versions are compared as numbers, and 01 and 1 would be one number in two folders.
    """
    is_number = name.isascii() and name.isdigit() and len(name) <= _MAX_VERSION_DIGITS
    return is_number and (name == "0" or name[0] != "0")


def parse_model_config(content: bytes) -> ModelFile:
    """What the file says; ModelFileError if it says nothing that can be done."""
    try:
        found = msgspec.convert(read_plain_yaml(content), _File)
    except PlainYamlError as error:
        raise ModelFileError(str(error)) from error
    except msgspec.ValidationError as error:
        raise ModelFileError(f"it is not right: {error}") from error
    if not content.endswith(b"\n"):
        raise ModelFileError("its last line does not end: it may be half written")
    if (found.version is None) == (found.policy is None):
        raise ModelFileError("give either version or policy: latest")
    _check_names(found)
    _check_label_names(found)
    _check_adapters(found)
    return ModelFile(
        found.name, found.path, found.version, found.labels, found.swap_policy, found.adapters
    )


def read_model_file(path: Path) -> bytes:
    """The content of the file, as long as that is a small one. ModelFileError if it is not."""
    try:
        # Without O_NONBLOCK a FIFO that nobody writes would hold the reader for good.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            return _read_small(descriptor)
        finally:
            os.close(descriptor)
    except ModelFileError:
        raise
    except (OSError, ValueError) as error:
        raise ModelFileError(f"it cannot be read: {error}") from error


def _read_small(descriptor: int) -> bytes:
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise ModelFileError(f"it is {kind}, not a regular file")
    content = b""
    while part := os.read(descriptor, MAX_BYTES + 1 - len(content)):
        content += part
    if len(content) > MAX_BYTES:
        raise ModelFileError(f"it has more than {MAX_BYTES} bytes, the most that are read")
    return content


def _check_names(found: _File) -> None:
    if not found.name or "@" in found.name:
        raise ModelFileError("name must not be empty or hold an @")
    if not found.path:
        raise ModelFileError("path must not be empty")
    for name in (found.name, found.path, *found.labels):
        if not name.isprintable() or len(name) > _MAX_NAME_CHARS:
            raise ModelFileError(
                f"{_quoted(name)} must be at most {_MAX_NAME_CHARS} printable characters"
            )


def _check_label_names(found: _File) -> None:
    """A label is no version's number and names a version."""
    for label in found.labels:
        if not label or "@" in label or label.isdigit():
            raise ModelFileError(
                f"label {_quoted(label)} must be a word: no number, no @, not empty"
            )
    versions = [*([] if found.version is None else [found.version]), *found.labels.values()]
    for version in versions:
        if not is_version(version):
            raise ModelFileError(
                f"version {_quoted(version)} is no whole number, without leading zeros"
            )


def _check_adapters(found: _File) -> None:
    for name, version in found.adapters.items():
        if not is_version(version) and version != LATEST:
            raise ModelFileError(
                f"version {_quoted(version)} of adapter {_quoted(name)} is neither a whole number,"
                f" without leading zeros, nor {LATEST}"
            )


def _quoted(value: str) -> str:
    return repr(value if len(value) <= _MAX_QUOTED_CHARS else f"{value[:_MAX_QUOTED_CHARS]}...")


def _one_sentence(message: str) -> str:
    """Of the message what can be printed, in one line: it may quote what the file holds."""
    line = " ".join(message.split())
    line = "".join(char if char.isprintable() else "?" for char in line)
    if len(line) <= _MAX_MESSAGE_CHARS:
        return line
    return line[: _MAX_MESSAGE_CHARS - 3] + "..."
