"""Integers of matrices stored [in, out]: AWQ packs them along the outputs, GPTQ along the inputs.

AWQ (Lin et al., 2023) as AutoAWQ's GEMM version writes it; GPTQ (Frantar et al., 2022) as AutoGPTQ
and GPTQModel do. A part of the outputs can only be read with all the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from models.quantized.numbers import WORD_BITS, unpacked, unpacked_down
from models.quantized.scaled import FLOATS, group_of_inputs, group_size
from models.quantized.stored import StoredMatrix, StoredTensor

_WORDS, _ZEROS, _SCALE, _GROUPS = "qweight", "qzeros", "scales", "g_idx"
# The places of a word's eight fields among its outputs.
_AWQ_ORDER = np.array([0, 4, 1, 5, 2, 6, 3, 7])
_AWQ_BITS = 4


@dataclass(frozen=True, slots=True)
class Awq:
    """w = (q - zero point) * scale, with four bits each."""

    suffixes: tuple[str, ...] = (_WORDS, _ZEROS, _SCALE)

    def stores(self, tensors: Mapping[str, StoredTensor]) -> bool:
        return _WORDS in tensors

    def check(self, matrix: StoredMatrix) -> None:
        outputs, inputs = matrix.shape
        groups = inputs // group_size(matrix, _SCALE, 0)
        matrix.require(_WORDS, ("I32",), (inputs, outputs * _AWQ_BITS // WORD_BITS))
        matrix.require(_ZEROS, ("I32",), (groups, outputs * _AWQ_BITS // WORD_BITS))
        matrix.require(_SCALE, FLOATS, (groups, outputs))

    def rows(self, matrix: StoredMatrix, first: int, last: int) -> np.ndarray:
        size = group_size(matrix, _SCALE, 0)
        values, zeros = (_in_order(matrix.whole(name))[:, first:last] for name in (_WORDS, _ZEROS))
        scales = matrix.whole(_SCALE)[:, first:last].astype(np.float32)
        groups = np.arange(matrix.shape[1]) // size
        return ((values.astype(np.float32) - zeros[groups]) * scales[groups]).T


@dataclass(frozen=True, slots=True)
class Gptq:
    """w = (q - zero point) * scale. `zero_offset` is what was subtracted from the zero points."""

    bits: int
    zero_offset: int
    suffixes: tuple[str, ...] = (_WORDS, _ZEROS, _SCALE, _GROUPS)

    def stores(self, tensors: Mapping[str, StoredTensor]) -> bool:
        return _WORDS in tensors

    def check(self, matrix: StoredMatrix) -> None:
        outputs, inputs = matrix.shape
        groups = inputs // group_size(matrix, _SCALE, 0)
        matrix.require(_WORDS, ("I32",), (inputs * self.bits // WORD_BITS, outputs))
        matrix.require(_ZEROS, ("I32",), (groups, outputs * self.bits // WORD_BITS))
        matrix.require(_SCALE, FLOATS, (groups, outputs))
        if _GROUPS in matrix.tensors:
            matrix.require(_GROUPS, ("I32", "I64"), (inputs,))

    def rows(self, matrix: StoredMatrix, first: int, last: int) -> np.ndarray:
        words = matrix.whole(_WORDS)[:, first:last]
        values = unpacked_down(words, self.bits).astype(np.float32)
        zeros = unpacked(matrix.whole(_ZEROS), self.bits)[:, first:last].astype(np.float32)
        # Eight bits wrap around: what is stored for a zero point of 0 is 255.
        zeros = (zeros + self.zero_offset) % (1 << self.bits)
        scales = matrix.whole(_SCALE)[:, first:last].astype(np.float32)
        groups = group_of_inputs(matrix, _GROUPS, _SCALE, 0)
        return ((values - zeros[groups]) * scales[groups]).T


def _in_order(words: np.ndarray) -> np.ndarray:
    """The integers of AWQ's words [N, W] in the order of the outputs: uint8 [N, 8 W]."""
    fields = unpacked(words, _AWQ_BITS).reshape(len(words), -1, len(_AWQ_ORDER))
    return fields[:, :, _AWQ_ORDER].reshape(len(words), -1)
