"""Numbers of few bits: integers packed into words, and four-bit floats.

Everything is NumPy and exact. Knows neither scales nor which format packs how.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

WORD_BITS = 32
# Float4 (E2M1) of the OCP Microscaling Formats specification, by code; the top bit is the sign.
_FLOAT4 = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], np.float32)
FLOAT4 = np.concatenate([_FLOAT4, -_FLOAT4])


def unpacked(words: np.ndarray, bits: int) -> np.ndarray:
    """The unsigned integers in each row of int32 words [..., W], lowest bits first.

    `bits` divides 32. The result is uint8 [..., W * 32 / bits].
    """
    shifts = np.arange(0, WORD_BITS, bits, dtype=np.uint32)
    fields = words.view(np.uint32)[..., None] >> shifts & np.uint32((1 << bits) - 1)
    return fields.astype(np.uint8).reshape(*words.shape[:-1], -1)


def unpacked_down(words: np.ndarray, bits: int) -> np.ndarray:
    """The same for integers packed along the first axis of [W, N]: uint8 [W * 32 / bits, N]."""
    return unpacked(np.ascontiguousarray(words.T), bits).T


def float4(pairs: np.ndarray) -> np.ndarray:
    """The values of bytes [..., B] that hold two each, low half first: float32 [..., 2 B]."""
    codes = np.stack([pairs & 0xF, pairs >> 4], axis=-1).reshape(*pairs.shape[:-1], -1)
    return FLOAT4[codes]


def power_of_two(exponents: np.ndarray) -> np.ndarray:
    """The scales of a byte each that holds a biased exponent (E8M0): float32."""
    return exponents.view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
