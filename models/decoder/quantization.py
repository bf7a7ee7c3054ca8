"""Quantization to 8 bits: int8 matrices, and keys and values in int8 or float8.

A matrix [in, out] becomes int8 with one float32 scale per output column, which multiplies the
product. Keys and values are divided by one scale per layer and KV head before they are stored.
Scores are linear in the keys and outputs are linear in the values, so the scales are applied to the
queries and to the output. No kernel needs the scales.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

# The largest magnitude kept: symmetric, so that -128 is not used.
_LARGEST = {jnp.dtype(jnp.int8): 127.0, jnp.dtype(jnp.float8_e4m3fn): 448.0}
# Calibration maps the largest magnitude it saw to this part of the range. Headroom costs floats no
# precision; integers lose some.
_FILLED = {jnp.dtype(jnp.int8): 0.9, jnp.dtype(jnp.float8_e4m3fn): 0.25}


def column_scales(w: np.ndarray) -> np.ndarray:
    """The float32 scale of every column of `w` [..., in, out]: [..., out]."""
    largest = np.abs(w).max(axis=-2).astype(np.float32)
    return np.where(largest > 0, largest / np.float32(127), np.float32(1))


def quantize_columns(w: np.ndarray) -> np.ndarray:
    """`w` [..., in, out] as int8, in units of `column_scales`."""
    scaled = w.astype(np.float32) / column_scales(w)[..., None, :]
    return np.rint(scaled).astype(np.int8)


def kv_scale(largest: np.ndarray, dtype: jnp.dtype) -> np.ndarray:
    """The scale that keeps values up to `largest` within the dtype's range, with headroom."""
    wanted = largest.astype(np.float32) / np.float32(_LARGEST[dtype] * _FILLED[dtype])
    return np.where(wanted > 0, wanted, np.float32(1))


def quantize_kv(kv_TK2H: jax.Array, units_K2: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Keys and values in their head's units, cut off at the ends of the dtype's range."""
    largest = _LARGEST[dtype]
    scaled = jnp.clip(kv_TK2H.astype(jnp.float32) / units_K2[..., None], -largest, largest)
    return (jnp.rint(scaled) if dtype == jnp.int8 else scaled).astype(dtype)
