"""Four-bit floats with a scale for each group: NVFP4 and MXFP4.

compressed-tensors and modelopt store the same numbers under other names. Knows one matrix at a
time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from models.quantized.numbers import float4
from models.quantized.scaled import SCALES, group_size, scales_of
from models.quantized.stored import StoredMatrix, StoredTensor

_SCALE = "weight_scale"


@dataclass(frozen=True, slots=True)
class PackedFloat4:
    """w = value * scale of its group, and of the whole matrix where the format has such a scale.

    `values` names the tensor of the values. `divided_by` and `times` name that of the whole
    matrix's scale, which one tool stores as its reciprocal.
    """

    values: str = "weight_packed"
    divided_by: str = "weight_global_scale"
    times: str = "weight_scale_2"

    @property
    def suffixes(self) -> tuple[str, ...]:
        return self.values, _SCALE, self.divided_by, self.times

    def stores(self, tensors: Mapping[str, StoredTensor]) -> bool:
        return self.values in tensors and tensors[self.values].dtype == "U8"

    def check(self, matrix: StoredMatrix) -> None:
        outputs, inputs = matrix.shape
        matrix.require(self.values, ("U8",), (outputs, inputs // 2))
        groups = inputs // group_size(matrix, _SCALE, 1)
        matrix.require(_SCALE, SCALES, (outputs, groups))
        for suffix in (self.divided_by, self.times):
            if suffix in matrix.tensors:
                matrix.require(suffix, ("F32",), (), (1,))

    def rows(self, matrix: StoredMatrix, first: int, last: int) -> np.ndarray:
        values = float4(matrix.read(self.values, slice(first, last)))
        scales = scales_of(matrix, _SCALE, slice(first, last))
        if self.divided_by in matrix.tensors:
            scales = scales / np.float32(matrix.whole(self.divided_by).reshape(()))
        if self.times in matrix.tensors:
            scales = scales * np.float32(matrix.whole(self.times).reshape(()))
        return values * np.repeat(scales, group_size(matrix, _SCALE, 1), axis=1)
