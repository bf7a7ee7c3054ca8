"""Reads the JSON files of a checkpoint, strictly: one object, each key once, of a bounded size.

Python's own reader keeps the last of two equal keys, so a value that somebody edited could be
ignored without a word. Does not know what the files mean.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from models.checkpoint.files import IS_LFS_POINTER, LFS_POINTER

# A published config.json has some kilobytes.
_MAX_BYTES = 16 << 20


class JsonFileError(ValueError):
    """A file that is no such object; the message names the file and the reason."""


def read_object(path: Path, *, max_bytes: int = _MAX_BYTES) -> dict[str, Any]:
    """The object in a file. FileNotFoundError if there is no file; otherwise JsonFileError."""
    try:
        if (size := path.stat().st_size) > max_bytes:
            raise ValueError(f"it has {size} bytes; at most {max_bytes} are read")
        content = path.read_bytes()
        if content.startswith(LFS_POINTER):
            raise JsonFileError(f"{path} {IS_LFS_POINTER}")
        value = json.loads(content.decode("utf-8"), object_pairs_hook=_each_key_once)
    except (FileNotFoundError, JsonFileError):
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise JsonFileError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise JsonFileError(f"{path} is not a JSON object")
    return value


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands in it twice")
    return found
