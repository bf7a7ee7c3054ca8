"""Integers packed into words along the inputs: compressed-tensors' pack-quantized (W4A16, W8A16).

Each integer is stored with an offset of half its range. Zero points are packed along the outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from models.quantized.numbers import WORD_BITS, unpacked, unpacked_down
from models.quantized.scaled import FLOATS, group_of_inputs, group_size
from models.quantized.stored import StorageError, StoredMatrix, StoredTensor

_WORDS, _SCALE, _ZEROS, _GROUPS = (
    "weight_packed",
    "weight_scale",
    "weight_zero_point",
    "weight_g_idx",
)
_BITS = (4, 8)


@dataclass(frozen=True, slots=True)
class PackedRows:
    """w = (q - zero point) * scale of q's group."""

    suffixes: tuple[str, ...] = (_WORDS, _SCALE, _ZEROS, _GROUPS)

    def stores(self, tensors: Mapping[str, StoredTensor]) -> bool:
        return _WORDS in tensors and tensors[_WORDS].dtype == "I32"

    def check(self, matrix: StoredMatrix) -> None:
        outputs, inputs = matrix.shape
        bits = self._bits(matrix)
        matrix.require(_WORDS, ("I32",), (outputs, _words(inputs, bits)))
        groups = inputs // group_size(matrix, _SCALE, 1)
        matrix.require(_SCALE, FLOATS, (outputs, groups))
        if _ZEROS in matrix.tensors:
            matrix.require(_ZEROS, ("I32",), (_words(outputs, bits), groups))
        if _GROUPS in matrix.tensors:
            matrix.require(_GROUPS, ("I32", "I64"), (inputs,))

    def rows(self, matrix: StoredMatrix, first: int, last: int) -> np.ndarray:
        inputs, bits = matrix.shape[1], self._bits(matrix)
        words = matrix.read(_WORDS, slice(first, last))
        # The offset of the integers and that of the zero points cancel out.
        values = unpacked(words, bits)[:, :inputs].astype(np.float32)
        groups = group_of_inputs(matrix, _GROUPS, _SCALE, 1)
        zeros: np.ndarray | float = float(1 << (bits - 1))
        if _ZEROS in matrix.tensors:
            spread = unpacked_down(matrix.whole(_ZEROS), bits)[first:last]
            zeros = spread.astype(np.float32)[:, groups]
        scales = matrix.read(_SCALE, slice(first, last)).astype(np.float32)
        return (values - zeros) * scales[:, groups]

    def _bits(self, matrix: StoredMatrix) -> int:
        shape = matrix.tensors[_WORDS].shape
        width = shape[1] if len(shape) == 2 else 0
        for bits in _BITS:
            if width == _words(matrix.shape[1], bits):
                return bits
        raise StorageError(
            f"{_WORDS} has shape {list(shape)}; weights of {' or '.join(map(str, _BITS))} bits"
            f" take {' or '.join(str(_words(matrix.shape[1], bits)) for bits in _BITS)} words a row"
        )


def _words(count: int, bits: int) -> int:
    return -(-count * bits // WORD_BITS)
