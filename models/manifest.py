"""What a finished checkpoint folder says about itself: `antipode.json`, written last.

It lists every other file with its size and SHA-256, so a reader can tell a whole folder from a torn
or stale one. This module does not know what the files mean.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

NAME = "antipode.json"
_FORMAT = 1
_READ_BYTES = 1 << 20


def write(folder: Path) -> None:
    """Describe every file now in `folder`; on return all of it is on the disk."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.iterdir())
        if path.name != NAME
    }
    write_json(folder / NAME, {"format": _FORMAT, "files": files})
    sync_folder(folder)


def read(folder: Path) -> dict[str, Any]:
    """The manifest; FileNotFoundError without one, ValueError for one of another format."""
    match json.loads((folder / NAME).read_text(encoding="utf-8")):
        case {"format": format_, "files": dict()} as manifest if format_ == _FORMAT:
            return dict(manifest)
        case _:
            raise ValueError(f"{folder / NAME} is not a manifest of format {_FORMAT}")


def is_complete(folder: Path) -> bool:
    """Whether the folder has a manifest and every listed file at its listed size.

    Contents are not read: that takes as long as loading them.
    """
    try:
        files = read(folder)["files"].items()
        return all((folder / name).stat().st_size == entry["bytes"] for name, entry in files)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def verify(folder: Path) -> None:
    """Read every listed file; ValueError names the first that is not what the manifest says."""
    for name, entry in read(folder)["files"].items():
        if sha256(folder / name) != entry["sha256"]:
            raise ValueError(f"{folder / name} does not have the checksum {NAME} lists for it")


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def write_json(path: Path, value: object) -> None:
    """Write `value` for people to read, and wait until the disk has it."""
    with path.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the folder's entries (new names, renames) survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
