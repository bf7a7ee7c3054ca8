"""Bytes with scales: int8 or fp8 weights, one scale for all, for a row, a group or a block.

compressed-tensors (int-quantized, float-quantized, naive-quantized), fp8 as DeepSeek, Qwen, AutoFP8
and fbgemm write it, and modelopt's FP8 store matrices so. What each scale covers is said by the
shape of the scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from models.quantized.numbers import power_of_two
from models.quantized.stored import StorageError, StoredMatrix, StoredTensor

FLOATS = ("BF16", "F16", "F32")
# Biased exponents of powers of two; numpy's files know no type for them, so some say bytes.
_EXPONENTS = ("U8", "F8_E8M0")
SCALES = (*FLOATS, "F8_E4M3", *_EXPONENTS)
_BYTES = ("I8", "F8_E4M3")
_ZERO_POINT = "weight_zero_point"


@dataclass(frozen=True, slots=True)
class ScaledBytes:
    """w = (q - zero point) * scale. `block` is the part [out, in] of a matrix under one scale.

    `scales` are the names that the scales may have: that of the first is asked for.
    """

    scales: tuple[str, ...] = ("weight_scale",)
    block: tuple[int, int] | None = None

    @property
    def suffixes(self) -> tuple[str, ...]:
        return "weight", *self.scales, _ZERO_POINT

    def stores(self, tensors: Mapping[str, StoredTensor]) -> bool:
        return "weight" in tensors and tensors["weight"].dtype in _BYTES

    def check(self, matrix: StoredMatrix) -> None:
        matrix.require("weight", _BYTES, matrix.shape)
        shapes, scale = self._shapes(matrix.shape), self._scale(matrix)
        found = matrix.tensors.get(scale)
        if found is not None and (groups := _groups(found.shape, matrix.shape)):
            shapes = (*shapes, groups)
        matrix.require(scale, SCALES, *shapes)
        if _ZERO_POINT in matrix.tensors:
            matrix.require(_ZERO_POINT, ("I8",), matrix.tensors[scale].shape)

    def rows(self, matrix: StoredMatrix, first: int, last: int) -> np.ndarray:
        values = matrix.read("weight", slice(first, last)).astype(np.float32)
        if _ZERO_POINT in matrix.tensors:
            zeros = matrix.whole(_ZERO_POINT).astype(np.float32)
            values -= self._spread(matrix, zeros, first, last)
        return values * self._spread(matrix, scales_of(matrix, self._scale(matrix)), first, last)

    def _scale(self, matrix: StoredMatrix) -> str:
        return next((name for name in self.scales if name in matrix.tensors), self.scales[0])

    def _shapes(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """Of one scale for all, of one for each row, and of one for each block."""
        of_all: tuple[tuple[int, ...], ...] = ((), (1,), (1, 1), (shape[0],), (shape[0], 1))
        if self.block is None:
            return of_all
        rows, columns = _blocks(shape, self.block)
        # modelopt keeps the axes within a block.
        return *of_all, (rows, columns), (rows, 1, columns, 1)

    def _spread(
        self, matrix: StoredMatrix, scales: np.ndarray, first: int, last: int
    ) -> np.ndarray:
        """What applies to each element of the rows, in a form that broadcasts to them."""
        if scales.size == 1:
            return scales.reshape(1, 1)
        if scales.size == matrix.shape[0]:
            return scales.reshape(-1, 1)[first:last]
        if scales.ndim == 4:
            scales = scales[:, 0, :, 0]
        height, width = 1, matrix.shape[1] // scales.shape[1]
        if self.block is not None and scales.shape == _blocks(matrix.shape, self.block):
            height, width = self.block
        of_rows = scales[np.arange(first, last) // height]
        return np.repeat(of_rows, width, axis=1)[:, : matrix.shape[1]]


def _blocks(shape: tuple[int, ...], block: tuple[int, int]) -> tuple[int, int]:
    return -(-shape[0] // block[0]), -(-shape[1] // block[1])


def _groups(found: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape of scales for equal groups of each row, if that is what was found."""
    is_grouped = len(found) == 2 and found[0] == shape[0] and found[1] and not shape[1] % found[1]
    return found if is_grouped else None


def scales_of(matrix: StoredMatrix, suffix: str, rows: slice = slice(None)) -> np.ndarray:
    """The scales of these rows, float32."""
    scales = matrix.read(suffix, rows)
    if matrix.tensors[suffix].dtype in _EXPONENTS:
        return power_of_two(scales.view(np.uint8))
    return scales.astype(np.float32)


def group_size(matrix: StoredMatrix, suffix: str, groups_axis: int) -> int:
    """How many inputs share one scale, from the number of scales. StorageError if it is uneven."""
    tensor = matrix.tensors.get(suffix)
    if tensor is None:
        raise StorageError(f"{suffix} is missing")
    count = tensor.shape[groups_axis] if len(tensor.shape) == 2 else 0
    if not count or matrix.shape[1] % count:
        raise StorageError(
            f"{suffix} has shape {list(tensor.shape)}, which does not divide"
            f" {matrix.shape[1]} inputs into equal groups"
        )
    return matrix.shape[1] // count


def group_of_inputs(matrix: StoredMatrix, suffix: str, scale: str, groups_axis: int) -> np.ndarray:
    """The number of each input's group: as the tensor `suffix` says, else in order.

    A tool that orders no inputs may leave the tensor as it was made, with -1 in each place. Raises
    StorageError for a group without a scale.
    """
    size = group_size(matrix, scale, groups_axis)
    in_order = np.arange(matrix.shape[1]) // size
    if suffix not in matrix.tensors:
        return in_order
    found, count = matrix.whole(suffix), matrix.shape[1] // size
    if (found == -1).all():
        return in_order
    if (wrong := found[(found < 0) | (found >= count)]).size:
        raise StorageError(
            f"{suffix} names group {wrong[0]}, but there are scales of {count} groups"
        )
    return found
