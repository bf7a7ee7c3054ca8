"""The tensors of a checkpoint folder: their names and shapes, and how to read parts of them.

The folder has the Hugging Face layout: one or more safetensors files. Where an index file names a
tensor, the tensor is in that file and no other; files that the index does not name are not read.
Without an index, no tensor may stand twice. A matrix that is stored quantized is read as the
floats that it stands for. Knows neither models nor devices.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from models.checkpoint.files import LocalFiles
from models.checkpoint.verified_reading import FileReader, ReadError
from models.headless import tensor_name
from models.quantized.stored import Storage, StorageError, StoredMatrix, StoredTensor

_INDEX = "model.safetensors.index.json"
# The types a weight may be stored in.
_FLOATS = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
# The types that the parts of a quantized matrix may be stored in.
_DTYPES = _FLOATS | {
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "I32": np.dtype(np.int32),
    "I64": np.dtype(np.int64),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
}
# Sizes of all safetensors types, to distinguish a truncated file from one of an unsupported type.
_BITS = {
    "BOOL": 8, "I8": 8, "U8": 8, "I16": 16, "U16": 16, "I32": 32, "U32": 32, "I64": 64, "U64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F16": 16, "BF16": 16, "F32": 32, "F64": 64,
}  # fmt: skip
# The published prefix of the language model in a vision checkpoint.
_VISION, _HEAD = "language_model.", "lm_head.weight"
# The parts of a vision checkpoint beside the language model, and the published prefix of one.
_PARTS = ("vision_tower.", "multi_modal_projector.")
_TOWER = "vision_tower.vision_model."
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100 << 20


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded; the message names the file or tensor and the reason."""


@dataclass(frozen=True, slots=True)
class _Tensor:
    """One tensor of a file; `start` is the offset of its first byte."""

    file: str
    shape: tuple[int, ...]
    dtype: str
    start: int

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * _BITS[self.dtype] // 8

    @property
    def stop(self) -> int:
        return self.start + (self.shape[0] if self.shape else 1) * self.row_bytes


class Checkpoint:
    """The tensors of one folder. Opening reads only headers. For use by one thread.

    `reader` reads the files; by default it reads a local folder without verification. `storages`
    are the ways in which matrices may be stored instead of as floats.
    """

    def __init__(
        self,
        folder: Path,
        reader: FileReader | None = None,
        storages: Sequence[Storage] = (),
    ) -> None:
        self.folder = folder
        self._storages = storages
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._reader = reader or FileReader(LocalFiles(folder))
        try:
            self._tensors = self._find()
        except ReadError as error:
            raise CheckpointError(str(error)) from error

    def __contains__(self, name: str) -> bool:
        return bool(self._parts(name))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor, by name."""
        return {name: tensor.shape for name, tensor in self._tensors.items()}

    def place(self, name: str) -> tuple[str, int]:
        """The place where a tensor begins: its file, and the offset in the file."""
        tensors = [self._tensors[part] for part in self._parts(name)]
        return min((tensor.file, tensor.start) for tensor in tensors)

    def read_ahead(self, names: Iterable[str]) -> None:
        """Announce the tensors that will be read, in the order of reading."""
        tensors = [self._tensors[part] for name in names for part in self._parts(name)]
        self._reader.read_ahead((tensor.file, tensor.start, tensor.stop) for tensor in tensors)

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise CheckpointError unless the tensor exists in this shape, and can be read.

        A matrix that is stored quantized can be read only after it was checked.
        """
        if (storage := self._storage(name)) is not None:
            self._shapes[name] = shape
            self._check_quantized(name, storage)
            return
        tensor = self._tensors.get(name)
        if tensor is None:
            raise CheckpointError(f"{self.folder}: tensor {name} is missing")
        if tensor.shape != shape:
            raise CheckpointError(
                f"{self.folder / tensor.file}: tensor {name} has shape {list(tensor.shape)}, "
                f"but config.json asks for {list(shape)}"
            )
        if tensor.dtype not in _FLOATS:
            raise CheckpointError(
                f"{self.folder / tensor.file}: tensor {name} is stored as {tensor.dtype}, which is "
                f"not supported; these are: {', '.join(_FLOATS)}"
            )

    def read(
        self, name: str, rows: slice = slice(None), columns: slice | None = None
    ) -> np.ndarray:
        """The tensor, or these rows (and columns) of the tensor.

        In its stored dtype; float32 if it is stored quantized.
        """
        storage = self._storage(name)
        if storage is None:
            value = self._read_stored(name, rows)
        else:
            matrix = self._matrix(name, storage)
            first, last, _ = rows.indices(matrix.shape[0])
            value = storage.rows(matrix, first, last)
        return value if columns is None else value[:, columns]

    def _read_stored(self, name: str, rows: slice) -> np.ndarray:
        """Rows of one tensor of the files, in its stored dtype."""
        tensor = self._tensors[name]
        first, last, _ = rows.indices(tensor.shape[0] if tensor.shape else 1)
        start, stop = (tensor.start + row * tensor.row_bytes for row in (first, last))
        try:
            data = self._reader.read(tensor.file, start, stop)
        except ReadError as error:
            raise CheckpointError(f"tensor {name}: {error}") from error
        value = np.frombuffer(data, _DTYPES[tensor.dtype])
        shape: tuple[int, ...] = (last - first, *tensor.shape[1:]) if tensor.shape else ()
        return value.reshape(shape)

    def _storage(self, name: str) -> Storage | None:
        """How the matrix is stored; None if it is stored as it is, or not at all."""
        stored = self._tensors.get(name)
        if stored is not None and stored.dtype in _FLOATS:
            return None
        found = (each for each in self._storages if each.stores(self._stored(name, each)))
        return next(found, None)

    def _stored(self, name: str, storage: Storage) -> dict[str, StoredTensor]:
        """The tensors that store the matrix, by suffix."""
        module = name.removesuffix("weight")
        found = ((suffix, self._tensors.get(module + suffix)) for suffix in storage.suffixes)
        return {suffix: StoredTensor(each.dtype, each.shape) for suffix, each in found if each}

    def _parts(self, name: str) -> list[str]:
        """The tensors of the files that hold the tensor."""
        storage = self._storage(name)
        if storage is None:
            return [name] if name in self._tensors else []
        return [name.removesuffix("weight") + suffix for suffix in self._stored(name, storage)]

    def _matrix(self, name: str, storage: Storage) -> StoredMatrix:
        module = name.removesuffix("weight")
        return StoredMatrix(
            self._shapes[name],
            self._stored(name, storage),
            lambda suffix, rows: self._read_stored(module + suffix, rows),
        )

    def _check_quantized(self, name: str, storage: Storage) -> None:
        try:
            storage.check(self._matrix(name, storage))
        except StorageError as error:
            raise CheckpointError(
                f"{self.folder / self.place(name)[0]}: {name} is quantized, and its {error}"
            ) from error

    def _find(self) -> dict[str, _Tensor]:
        places = _places(self.folder, self._reader)
        found: dict[str, _Tensor] = {}
        for file in _weight_files(self.folder, self._reader, places):
            for stored, tensor in _tensors_of(self.folder / file, self._reader):
                name = _published(stored)
                if places.get(name, file) != file:
                    continue
                if name in found:
                    raise _twice(self.folder, name, found[name].file, file)
                found[name] = tensor
        _place_head(found)
        if missing := sorted(places.keys() - found.keys()):
            path = self.folder / places[missing[0]]
            raise CheckpointError(
                f"{path}: tensor {missing[0]} is missing, though {_INDEX} says that it is there"
            )
        return found


def _published(name: str) -> str:
    """The name that the model asks for: that of published vision checkpoints, for a tensor that
    newer tools saved, and that of a model with a head, for a tensor of a model without one.
    """
    if (part := name.removeprefix("model.")).startswith(_PARTS):
        return (
            part if part.startswith((_TOWER, _PARTS[1])) else _TOWER + part.removeprefix(_PARTS[0])
        )
    renamed = "model.language_model."
    if not name.startswith(renamed):
        return tensor_name(name)
    return f"{_VISION}model." + name.removeprefix(renamed)


def _place_head(found: dict[str, _Tensor]) -> None:
    """Give the head of a vision checkpoint that newer tools saved its published name too."""
    if f"{_VISION}model.embed_tokens.weight" in found and _HEAD in found:
        found[_VISION + _HEAD] = found[_HEAD]


def _twice(folder: Path, name: str, first: str, second: str) -> CheckpointError:
    return CheckpointError(
        f"{folder}: tensor {name} is in {first} and in {second}, and no {_INDEX} says which one is"
        " meant; remove the file that is left over"
    )


def _places(folder: Path, reader: FileReader) -> dict[str, str]:
    """The file of each tensor, as the index says; empty without an index."""
    if _INDEX not in reader.names() and not (folder / _INDEX).is_dir():
        return {}
    try:
        index = json.loads(bytes(reader.read(_INDEX, 0, reader.size(_INDEX))))
        places = {_published(name): Path(file).name for name, file in index["weight_map"].items()}
    except (ReadError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{folder / _INDEX} cannot be read: {error!r}") from error
    if not places:
        raise CheckpointError(f"{folder / _INDEX} names no tensor")
    return places


def _weight_files(folder: Path, reader: FileReader, places: Mapping[str, str]) -> list[str]:
    """The safetensors files of a folder; every file that the index names must exist."""
    found = {name for name in reader.names() if name.endswith(".safetensors")}
    if missing := sorted(set(places.values()) - found):
        raise CheckpointError(f"{folder / missing[0]} is missing, though {_INDEX} names it")
    if not found:
        raise CheckpointError(f"{folder} holds no *.safetensors file")
    return sorted(set(places.values()) or found)


def _tensors_of(path: Path, reader: FileReader) -> list[tuple[str, _Tensor]]:
    """The tensors of one file. Its header must account for every byte after the header."""
    size = reader.size(path.name)
    try:
        if size < _LENGTH_BYTES:
            raise ValueError(f"it has {size} bytes")
        length = int.from_bytes(reader.read(path.name, 0, _LENGTH_BYTES), "little")
        if length > min(size - _LENGTH_BYTES, _MAX_HEADER_BYTES):
            raise ValueError(f"its header claims {length} bytes, the file has {size}")
        start = _LENGTH_BYTES + length
        header = json.loads(bytes(reader.read(path.name, _LENGTH_BYTES, start)))
        header.pop("__metadata__", None)
        found = [(name, _tensor(path.name, entry, start)) for name, entry in header.items()]
        end = max((tensor.stop for _, tensor in found), default=start)
        if end != size:
            raise ValueError(f"its tensors end at byte {end}, the file at {size}")
    except ReadError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is truncated or not a safetensors file: {error}") from error
    return found


def _tensor(file: str, entry: dict[str, Any], start: int) -> _Tensor:
    if entry["dtype"] not in _BITS:
        raise ValueError(f"a tensor has the unknown dtype {entry['dtype']}")
    first, last = entry["data_offsets"]
    tensor = _Tensor(file, tuple(entry["shape"]), entry["dtype"], start + first)
    if tensor.stop != start + last:
        raise ValueError(f"a tensor of shape {entry['shape']} has {last - first} bytes")
    return tensor
