"""A checkpoint folder's tensors: which there are, their shapes, and reading parts of them.

Hugging Face layout: one or more safetensors files, found by their headers, an index file being no
more than a promise that is checked. Knows no model and no device.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

_INDEX = "model.safetensors.index.json"
# What a weight may be stored as. Narrower types need scales, which nothing here would apply.
_DTYPES = ("F64", "F32", "F16", "BF16")


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded; the message names the file or tensor and the reason."""


@dataclass(frozen=True, slots=True)
class _Tensor:
    file: Path
    stored_name: str
    shape: tuple[int, ...]
    dtype: str


class Checkpoint:
    """The tensors of one folder. Opening reads headers only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = {path: _open(path) for path in _files(folder)}
        self._tensors = {
            _published(name): _tensor(path, name, handle.get_slice(name))
            for path, handle in self._files.items()
            for name in handle.keys()  # noqa: SIM118 - not a dict: it cannot be iterated
        }

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """CheckpointError unless the tensor is there in this shape, stored as floats."""
        tensor = self._tensors.get(name)
        if tensor is None:
            raise CheckpointError(f"{self.folder}: tensor {name} is missing")
        if tensor.shape != shape:
            raise CheckpointError(
                f"{tensor.file}: tensor {name} has shape {list(tensor.shape)}, "
                f"but config.json asks for {list(shape)}"
            )
        if tensor.dtype not in _DTYPES:
            raise CheckpointError(
                f"{tensor.file}: tensor {name} is stored as {tensor.dtype}, which is not supported;"
                f" these are: {', '.join(_DTYPES)}"
            )

    def read(
        self, name: str, rows: slice = slice(None), columns: slice | None = None
    ) -> np.ndarray:
        """The tensor, or these rows (and columns) of it, in the dtype it is stored in."""
        tensor = self._tensors[name]
        part = self._files[tensor.file].get_slice(tensor.stored_name)
        try:
            value: np.ndarray = part[rows] if columns is None else part[rows, columns]
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{tensor.file}: reading {name} failed: {error}") from error
        return value


def _published(name: str) -> str:
    """The name under which vision checkpoints were published, for what was saved again since."""
    renamed = "model.language_model."
    if not name.startswith(renamed):
        return name
    return "language_model.model." + name.removeprefix(renamed)


def _tensor(path: Path, name: str, part: Any) -> _Tensor:
    return _Tensor(path, name, tuple(part.get_shape()), part.get_dtype())


def _files(folder: Path) -> list[Path]:
    """The safetensors files of a folder; every one that its index names must be there."""
    found = sorted(folder.glob("*.safetensors"))
    index = folder / _INDEX
    if index.exists():
        try:
            named = {folder / file for file in json.loads(index.read_text())["weight_map"].values()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{index} cannot be read: {error!r}") from error
        if missing := sorted(named - set(found)):
            raise CheckpointError(f"{missing[0]} is missing, though {_INDEX} names it")
        return sorted(named)
    if not found:
        raise CheckpointError(f"{folder} holds no *.safetensors file")
    return found


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="numpy")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is truncated or not a safetensors file: {error}") from error
