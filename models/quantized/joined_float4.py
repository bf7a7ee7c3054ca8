"""Four-bit floats of all experts of a layer in one tensor: the MXFP4 of gpt-oss.

The checkpoint stores [E, out, in] in groups of 32 inputs, but asks for [E, in, out], as the same
model stores it in bfloat16. Each number is exact in bfloat16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from models.quantized.numbers import float4, power_of_two
from models.quantized.stored import StorageError, StoredMatrix, StoredTensor

_BLOCKS, _SCALES = "_blocks", "_scales"
_GROUP = 32


@dataclass(frozen=True, slots=True)
class JoinedFloat4:
    """w = value * scale of its group."""

    suffixes: tuple[str, ...] = (_BLOCKS, _SCALES)

    def stores(self, tensors: Mapping[str, StoredTensor]) -> bool:
        return _BLOCKS in tensors

    def check(self, matrix: StoredMatrix) -> None:
        if len(matrix.shape) != 3 or matrix.shape[1] % _GROUP:
            raise StorageError(
                f"shape {list(matrix.shape)} does not divide into groups of {_GROUP} inputs"
            )
        experts, inputs, outputs = matrix.shape
        groups = (experts, outputs, inputs // _GROUP)
        matrix.require(_BLOCKS, ("U8",), (*groups, _GROUP // 2))
        matrix.require(_SCALES, ("U8",), groups)

    def rows(self, matrix: StoredMatrix, first: int, last: int) -> np.ndarray:
        """The experts `first` to `last`: float32 [last - first, in, out]."""
        values = float4(matrix.read(_BLOCKS, slice(first, last)))
        scales = power_of_two(matrix.read(_SCALES, slice(first, last)))
        scaled = values * scales[..., None]
        return scaled.reshape(*scaled.shape[:2], -1).swapaxes(1, 2)
