"""The headers of safetensors files: where each tensor of a file lies, in which type and shape.

Reads no numbers, and does not know which tensors a model needs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from models.checkpoint.files import IS_LFS_POINTER, LFS_POINTER
from models.checkpoint.verified_reading import FileReader, ReadError

# Sizes of all safetensors types, to distinguish a truncated file from one of an unsupported type.
_BITS = {
    "BOOL": 8, "I8": 8, "U8": 8, "I16": 16, "U16": 16, "I32": 32, "U32": 32, "I64": 64, "U64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F16": 16, "BF16": 16, "F32": 32, "F64": 64,
}  # fmt: skip
# What transformers joins of the experts of a layer, under `mlp.experts`.
_EXPERTS = "mlp.experts"
_JOINED = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100 << 20


class HeaderError(ValueError):
    """A file that is not a whole safetensors file; the message names it and the reason."""


@dataclass(frozen=True, slots=True)
class Tensor:
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


def tensors_of(path: Path, reader: FileReader) -> list[tuple[str, Tensor]]:
    """The tensors of one file. Its header must account for every byte after the header."""
    size = reader.size(path.name)
    try:
        if size < _LENGTH_BYTES:
            raise ValueError(f"it has {size} bytes")
        start_bytes = bytes(reader.read(path.name, 0, min(size, len(LFS_POINTER))))
        if start_bytes == LFS_POINTER:
            raise HeaderError(f"{path} {IS_LFS_POINTER}")
        length = int.from_bytes(start_bytes[:_LENGTH_BYTES], "little")
        if length > min(size - _LENGTH_BYTES, _MAX_HEADER_BYTES):
            raise ValueError(f"its header claims {length} bytes, the file has {size}")
        start = _LENGTH_BYTES + length
        header = json.loads(bytes(reader.read(path.name, _LENGTH_BYTES, start)))
        header.pop("__metadata__", None)
        found = [(name, _tensor(path.name, entry, start)) for name, entry in header.items()]
        end = max((tensor.stop for _, tensor in found), default=start)
        if end != size:
            raise ValueError(f"its tensors end at byte {end}, the file at {size}")
        return found
    except (ReadError, HeaderError):
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise HeaderError(f"{path} is truncated or not a safetensors file: {error}") from error


def parts_of_joined(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The matrices of single experts in a tensor of all experts of a layer, by published names.

    transformers joins them [E, out, in], gate and then up in one; each lies in one piece.
    """
    module, _, joined = name.rpartition(".")
    parts = _JOINED.get(joined, ())
    if not parts or not module.endswith(_EXPERTS) or len(tensor.shape) != 3:
        return
    num_experts, rows, columns = tensor.shape
    size = rows // len(parts) * columns * _BITS[tensor.dtype] // 8
    for i in range(num_experts * len(parts)):
        place = replace(tensor, shape=(rows // len(parts), columns), start=tensor.start + i * size)
        yield f"{module}.{i // len(parts)}.{parts[i % len(parts)]}.weight", place


def _tensor(file: str, entry: dict[str, Any], start: int) -> Tensor:
    if entry["dtype"] not in _BITS:
        raise ValueError(f"a tensor has the unknown dtype {entry['dtype']}")
    first, last = entry["data_offsets"]
    tensor = Tensor(file, tuple(entry["shape"]), entry["dtype"], start + first)
    if tensor.stop != start + last:
        raise ValueError(f"a tensor of shape {entry['shape']} has {last - first} bytes")
    return tensor
