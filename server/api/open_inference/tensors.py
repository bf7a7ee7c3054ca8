"""Tensors of the protocol: a datatype, a shape and elements, and their raw bytes.

Raw bytes are little-endian and in row-major order. An element of BYTES is its length as uint32 and
then its bytes. Knows neither messages nor JSON, and not what a tensor is for.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from server.api.requests.validation import invalid

# Prompts and options have few elements; a longer tensor can only be token ids.
MAX_ELEMENTS = 1 << 20
MAX_TEXTS = 1 << 10
_MAX_DEPTH = 8
_LENGTH = struct.Struct("<I")
_DTYPES: Mapping[str, str] = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
DATATYPES = (*_DTYPES, "BF16", "BYTES")


@dataclass(frozen=True, slots=True)
class Tensor:
    """`values` are bool, int, float or, for BYTES, bytes: all elements in row-major order."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Sequence[Any]


def num_elements(name: str, datatype: str, shape: Sequence[int]) -> int:
    """How many elements a shape has. ApiError for a datatype or shape that no input can have."""
    if datatype not in DATATYPES:
        raise invalid(
            f"{name} has datatype {datatype[:20]!r}; it must be one of {', '.join(DATATYPES)}", name
        )
    if any(size < 0 for size in shape):
        raise invalid(f"{name} has shape {list(shape)[:8]}; no size may be negative", name)
    count = math.prod(shape)
    limit = MAX_TEXTS if datatype == "BYTES" else MAX_ELEMENTS
    if count > limit:
        raise invalid(
            f"{name} has {count} elements; a tensor of {datatype} has at most {limit}", name
        )
    return count


def checked(name: str, datatype: str, shape: Sequence[int], values: Sequence[Any]) -> Tensor:
    """A tensor of these elements; ApiError if the shape has another number of them."""
    count = num_elements(name, datatype, shape)
    if len(values) != count:
        raise invalid(
            f"{name} has {len(values)} elements, but its shape {list(shape)[:8]} has {count}", name
        )
    return Tensor(name, datatype, tuple(shape), values)


def unnested(name: str, value: list[Any], depth: int = 0) -> tuple[list[int], list[Any]]:
    """The shape of nested lists, and their elements. ApiError unless all rows are equally long."""
    if depth > _MAX_DEPTH:
        raise invalid(f"{name}: data is nested too deeply", name)
    are_lists = [isinstance(each, list) for each in value]
    if not any(are_lists):
        return [len(value)], value
    if not all(are_lists):
        raise invalid(f"{name}: data has lists next to elements; nest all or none", name)
    parts = [unnested(name, each, depth + 1) for each in value]
    if any(shape != parts[0][0] for shape, _ in parts):
        raise invalid(f"{name}: data has rows of different lengths; send a request for each", name)
    return [len(value), *parts[0][0]], [each for _, part in parts for each in part]


def without_ones(shape: Sequence[int]) -> list[int]:
    """The sizes that divide elements: a size of one does not."""
    return [size for size in shape if size != 1]


def from_raw(name: str, datatype: str, shape: Sequence[int], data: bytes) -> Tensor:
    """The tensor of raw bytes; ApiError if they are not those of the shape."""
    count = num_elements(name, datatype, shape)
    if datatype == "BYTES":
        return checked(name, datatype, shape, list(_texts(name, data)))
    width = 2 if datatype == "BF16" else np.dtype(_DTYPES[datatype]).itemsize
    if len(data) != count * width:
        raise invalid(
            f"{name} has {len(data)} raw bytes; {datatype} of shape {list(shape)[:8]} has"
            f" {count * width}",
            name,
        )
    return Tensor(name, datatype, tuple(shape), _numbers(datatype, data))


def raw(tensor: Tensor) -> bytes:
    """The raw bytes of a tensor that this server made."""
    if tensor.datatype == "BYTES":
        return b"".join(_LENGTH.pack(len(value)) + value for value in tensor.values)
    return np.asarray(tensor.values, _DTYPES[tensor.datatype]).tobytes()


def _numbers(datatype: str, data: bytes) -> list[Any]:
    if datatype == "BF16":
        # The upper half of a float32.
        return list((np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").tolist())
    return list(np.frombuffer(data, _DTYPES[datatype]).tolist())


def _texts(name: str, data: bytes) -> Iterator[bytes]:
    at = num_texts = 0
    while at < len(data):
        begin = at + _LENGTH.size
        length = _LENGTH.unpack_from(data, at)[0] if begin <= len(data) else len(data)
        at = begin + length
        num_texts += 1
        if at > len(data) or num_texts > MAX_TEXTS:
            raise invalid(
                f"{name}: an element of BYTES is its length in four bytes, little-endian, and then"
                f" that many bytes; the {len(data)} raw bytes are not of this form",
                name,
            )
        yield data[begin:at]
