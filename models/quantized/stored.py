"""One quantized matrix as a checkpoint stores it: several tensors under one name.

What a format reads of them goes through `StoredMatrix`, which checks types and shapes before
anything is read. Knows neither files nor formats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np


class StorageError(ValueError):
    """A quantized matrix that is not stored as its format says; the message names the tensor."""


class StoredTensor(NamedTuple):
    """The safetensors type and the shape of one tensor."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StoredMatrix:
    """A matrix [out, in], or those of all experts, and the tensors that store it, by suffix.

    `read(suffix, rows)` gives rows of a tensor in its stored type.
    """

    shape: tuple[int, ...]
    tensors: Mapping[str, StoredTensor]
    read: Callable[[str, slice], np.ndarray]

    def whole(self, suffix: str) -> np.ndarray:
        return self.read(suffix, slice(None))

    def require(self, suffix: str, dtypes: tuple[str, ...], *shapes: tuple[int, ...]) -> None:
        """Raise StorageError unless the tensor exists, in one of these types and shapes."""
        tensor = self.tensors.get(suffix)
        if tensor is None:
            raise StorageError(f"{suffix} is missing")
        if tensor.dtype not in dtypes:
            raise StorageError(f"{suffix} is stored as {tensor.dtype}, not {' or '.join(dtypes)}")
        if tensor.shape not in shapes:
            wanted = " or ".join(str(list(shape)) for shape in dict.fromkeys(shapes))
            raise StorageError(f"{suffix} has shape {list(tensor.shape)}, not {wanted}")


class Storage(Protocol):
    """A way to store a matrix."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The names of the tensors that may store a matrix, after the name of its module."""

    def stores(self, tensors: Mapping[str, StoredTensor]) -> bool:
        """Whether these tensors, all of one module, are a matrix stored in this way."""

    def check(self, matrix: StoredMatrix) -> None:
        """Raise StorageError unless `rows` could read the matrix."""

    def rows(self, matrix: StoredMatrix, first: int, last: int) -> np.ndarray:
        """Rows of the matrix that was stored: float32 [last - first, in]."""
