"""The names of a checkpoint's tensors, from its index or else from the headers of its files.

A folder that holds only the small files of a checkpoint elsewhere has an index in any case: who
copies them writes it. Reads no numbers, and does not know what a name means.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

INDEX = "model.safetensors.index.json"
_WEIGHTS = "*.safetensors"
# Mistral's own copy of the weights, under other names, beside those that transformers reads.
_OTHER_COPY = "consolidated"
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100 << 20


def stored_names(folder: Path) -> frozenset[str]:
    """The names; none for files that are not there or cannot be read: who needs them says so."""
    index = folder / INDEX
    if index.exists():
        weight_map = _object(_bytes(index)).get("weight_map")
        return frozenset(weight_map) if isinstance(weight_map, dict) else frozenset()
    files = weight_files(path.name for path in folder.glob(_WEIGHTS))
    return frozenset(name for file in files for name in _names(folder / file))


def weight_files(names: Iterable[str]) -> list[str]:
    """The files of weights among these where no index says which are."""
    found = sorted(name for name in names if name.endswith(_WEIGHTS.removeprefix("*")))
    own = [name for name in found if not name.startswith(_OTHER_COPY)]
    return own or found


def write_names(folder: Path, places: Mapping[str, str]) -> None:
    """Write an index of tensors that are elsewhere: the file of each."""
    (folder / INDEX).write_text(json.dumps({"weight_map": dict(places)}), encoding="utf-8")


def _names(path: Path) -> frozenset[str]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            header = file.read(length) if length <= _MAX_HEADER_BYTES else b""
    except OSError:
        return frozenset()
    return frozenset(_object(header)) - {"__metadata__"}


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _object(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
