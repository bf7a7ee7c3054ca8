"""A GGUF file as plain values: metadata by key, tensors by name.

A tensor is read, and dequantized, only when its values are asked for. The `gguf` package parses the
bytes; only this module imports it, when a file is opened. Knows neither the meaning of keys nor of
tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

_FLOATS = frozenset({"F32", "F16", "BF16"})
_K_QUANTS = frozenset({"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"})
_QUANTIZED = _K_QUANTS | {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "IQ4_XS", "MXFP4"}


class GgufError(ValueError):
    """The file cannot be imported; the message says why, and what is supported."""


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor: `shape` is [out, in] or [size]; `data` has one row for each of `shape[0]`."""

    name: str
    shape: tuple[int, ...]
    encoding: str
    data: NDArray[Any]

    def part(self, index: int) -> GgufTensor:
        """One of the matrices that a tensor of three dimensions holds."""
        return GgufTensor(
            self.name, self.shape[1:], self.encoding, self.data[index].reshape(self.shape[1], -1)
        )

    def rows(self, index: slice | NDArray[np.intp]) -> NDArray[np.float32]:
        """The requested rows, dequantized: [rows, in] (in = 1 for a one-dimensional tensor)."""
        gguf = _package()
        encoding = gguf.GGMLQuantizationType[self.encoding]
        rows = np.ascontiguousarray(self.data[index])
        return cast(NDArray[np.float32], gguf.quants.dequantize(rows, encoding))


class GgufFile:
    """An open file: `GgufFile(path)` reads its header and maps the rest; GgufError if it cannot."""

    def __init__(self, path: Path) -> None:
        self.path = path
        gguf = _package()
        try:
            self._reader = gguf.GGUFReader(path)
        except (ValueError, IndexError, KeyError, OverflowError) as error:
            raise GgufError(f"{path} is not a whole GGUF file: {error}") from error
        if self._reader.byte_order != "I":
            raise GgufError(f"{path} has another byte order than this machine")

    @cached_property
    def metadata(self) -> Mapping[str, Any]:
        """Every key of the header; arrays are lists."""
        return {key: field.contents() for key, field in self._reader.fields.items()}

    @cached_property
    def tensors(self) -> Mapping[str, GgufTensor]:
        """Every tensor by its GGUF name; GgufError for an encoding that cannot be read."""
        return {tensor.name: _tensor(tensor) for tensor in self._reader.tensors}

    def required(self, key: str) -> Any:
        """A required metadata value; GgufError if it is missing."""
        if key not in self.metadata:
            raise GgufError(f"{self.path} has no metadata key {key}")
        return self.metadata[key]

    @property
    def header_bytes(self) -> memoryview:
        """Metadata and tensor table as in the file: a cheap way to distinguish two files."""
        return memoryview(self._reader.data[: self._reader.data_offset])


def short(value: float) -> float:
    """The intended decimal: a file stores 1e-05 in 32 bits, which reads as 9.99999974e-06."""
    return float(f"{value:.6g}")


def _tensor(tensor: Any) -> GgufTensor:
    shape = tuple(int(size) for size in reversed(tensor.shape.tolist()))
    encoding = tensor.tensor_type.name
    # A quantized block spans several entries, so a one-dimensional tensor has no rows.
    readable = _FLOATS if len(shape) == 1 else _FLOATS | _QUANTIZED
    if encoding not in readable:
        raise GgufError(f"tensor {tensor.name} is stored as {encoding}; known: {sorted(readable)}")
    return GgufTensor(tensor.name, shape, encoding, tensor.data.reshape(shape[0], -1))


def _package() -> Any:
    try:
        import gguf
        import gguf.quants
    except ImportError as error:
        raise GgufError(
            "reading GGUF files needs the package `gguf`: run `uv sync --extra demo`, "
            "or `pip install gguf`"
        ) from error
    return gguf
