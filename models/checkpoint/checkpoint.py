"""The tensors of a checkpoint folder: their names and shapes, and how to read parts of them.

The folder has the Hugging Face layout: one or more safetensors files. Where an index file names a
tensor, the tensor is in that file and no other; files that the index does not name are not read.
Without an index, no tensor may stand twice. A matrix that is stored quantized is read as the
floats that it stands for. Knows neither models nor devices.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np

from models.checkpoint.files import LocalFiles
from models.checkpoint.headers import HeaderError, Tensor, parts_of_joined, tensors_of
from models.checkpoint.verified_reading import FileReader, ReadError
from models.headless import tensor_name
from models.quantized.stored import Storage, StorageError, StoredMatrix, StoredTensor
from models.tensor_names import INDEX, weight_files

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
# The published prefix of the language model in a vision checkpoint.
_VISION, _HEAD = "language_model.", "lm_head.weight"
# The parts of a vision checkpoint beside the language model, and the published prefix of one.
_PARTS = ("vision_tower.", "multi_modal_projector.", "embed_vision.")
_TOWER = "vision_tower.vision_model."
# The numbers of each of two matrices that are compared at once.
_COMPARED = 8 << 20


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded; the message names the file or tensor and the reason."""


class Checkpoint:
    """The tensors of one folder. Opening reads only headers. For use by one thread.

    `reader` reads the files; by default it reads a local folder without verification. `storages`
    are the ways in which matrices may be stored instead of as floats. Without `has_head`, a head
    that a file has is left over: nothing computes with it.
    """

    def __init__(
        self,
        folder: Path,
        reader: FileReader | None = None,
        storages: Sequence[Storage] = (),
        *,
        has_head: bool = True,
    ) -> None:
        self.folder, self._has_head = folder, has_head
        self._storages = storages
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._reader = reader or FileReader(LocalFiles(folder))
        try:
            self._tensors = self._find()
        except (ReadError, HeaderError) as error:
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

    def tie(self, name: str, other: str, shape: tuple[int, ...]) -> None:
        """Take two matrices, of which config.json says that they are one, for one.

        If only `other` is there, it is read as `name` too. Raises CheckpointError if both are there
        and differ.
        """
        if other not in self:
            return
        self.check(other, shape)
        if name not in self:
            self._tensors |= {
                name.removesuffix("weight") + part.removeprefix(other.removesuffix("weight")): found
                for part in self._parts(other)
                if (found := self._tensors[part])
            }
            return
        self.check(name, shape)
        step = max(1, _COMPARED // shape[1])
        parts = (slice(row, min(row + step, shape[0])) for row in range(0, shape[0], step))
        if not all(np.array_equal(self.read(name, rows), self.read(other, rows)) for rows in parts):
            raise CheckpointError(
                f"{self.folder}: config.json says that {name} and {other} are one matrix"
                " (tie_word_embeddings), but both are stored and they differ: set"
                " tie_word_embeddings to false if the model has a head of its own, or remove"
                f" {other}"
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
            try:
                value = storage.rows(matrix, first, last)
            except StorageError as error:
                raise self._is_stored_wrongly(name, error) from error
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
            raise self._is_stored_wrongly(name, error) from error

    def _is_stored_wrongly(self, name: str, error: StorageError) -> CheckpointError:
        file = self.folder / self.place(name)[0]
        return CheckpointError(f"{file}: {name} is quantized, and its {error}")

    def _find(self) -> dict[str, Tensor]:
        places = _places(self.folder, self._reader)
        found: dict[str, Tensor] = {}
        for file in _weight_files(self.folder, self._reader, places):
            for stored, tensor in tensors_of(self.folder / file, self._reader):
                name = _published(stored)
                if places.get(name, file) != file or (_HEAD in name and not self._has_head):
                    continue
                if name in found:
                    raise _twice(self.folder, name, found[name].file, file)
                found[name] = tensor
        _place_head(found)
        for name, joined in list(found.items()):
            for part, tensor in parts_of_joined(name, joined):
                found.setdefault(part, tensor)
        if missing := sorted(places.keys() - found.keys()):
            path = self.folder / places[missing[0]]
            raise CheckpointError(
                f"{path}: tensor {missing[0]} is missing, though {INDEX} says that it is there"
            )
        return found


def _published(name: str) -> str:
    """The name that the model asks for: that of published vision checkpoints, for a tensor that
    newer tools saved, and that of a model with a head, for a tensor of a model without one.
    """
    if (part := name.removeprefix("model.")).startswith(_PARTS):
        return (
            part
            if part.startswith((_TOWER, *_PARTS[1:]))
            else _TOWER + part.removeprefix(_PARTS[0])
        )
    renamed = "model.language_model."
    if not name.startswith(renamed):
        return tensor_name(name)
    return f"{_VISION}model." + name.removeprefix(renamed)


def _place_head(found: dict[str, Tensor]) -> None:
    """Give the head of a vision checkpoint that newer tools saved its published name too."""
    is_vision = any(name.startswith(f"{_VISION}model.") for name in found)
    if is_vision and _HEAD in found:
        found[_VISION + _HEAD] = found[_HEAD]


def _twice(folder: Path, name: str, first: str, second: str) -> CheckpointError:
    return CheckpointError(
        f"{folder}: tensor {name} is in {first} and in {second}, and no {INDEX} says which one is"
        " meant; remove the file that is left over"
    )


def _places(folder: Path, reader: FileReader) -> dict[str, str]:
    """The file of each tensor, as the index says; empty without an index."""
    if INDEX not in reader.names() and not (folder / INDEX).is_dir():
        return {}
    try:
        index = json.loads(bytes(reader.read(INDEX, 0, reader.size(INDEX))))
        places = {_published(name): Path(file).name for name, file in index["weight_map"].items()}
    except (ReadError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{folder / INDEX} cannot be read: {error!r}") from error
    if not places:
        raise CheckpointError(f"{folder / INDEX} names no tensor")
    return places


def _weight_files(folder: Path, reader: FileReader, places: Mapping[str, str]) -> list[str]:
    """The safetensors files of a folder; every file that the index names must exist."""
    found = {name for name in reader.names() if name.endswith(".safetensors")}
    if missing := sorted(set(places.values()) - found):
        raise CheckpointError(f"{folder / missing[0]} is missing, though {INDEX} names it")
    if not found:
        raise CheckpointError(f"{folder} holds no *.safetensors file")
    return sorted(set(places.values())) or weight_files(found)
