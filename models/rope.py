"""Rotary position embedding: frequencies (with Llama 3's scaling) and the rotation.

Source: Su et al., RoFormer (2021), in the half-split form of the Hugging Face checkpoints; scaling
by wavelength as in the Llama 3.1 reference code.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from models.config import ModelConfig, RopeScaling


def rope_frequencies(config: ModelConfig) -> np.ndarray:
    """Radians per position for each rotated pair: float32 [head_dim / 2]."""
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    frequencies = (1.0 / np.float32(config.rope_theta) ** exponents).astype(np.float32)
    return _scaled(frequencies, config.rope_scaling)


def rope_tables(config: ModelConfig, positions_T: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of every position: float32 [T, head_dim / 2] each."""
    angles = positions_T.astype(jnp.float32)[:, None] * jnp.asarray(rope_frequencies(config))
    return jnp.cos(angles), jnp.sin(angles)


def apply_rope(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotate the pairs (i, i + H/2) of `x` [T, ..., H]; computed and returned in float32."""
    shape = (x.shape[0],) + (1,) * (x.ndim - 2) + (-1,)
    cos, sin = cos.reshape(shape), sin.reshape(shape)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _scaled(frequencies: np.ndarray, scaling: RopeScaling | None) -> np.ndarray:
    if scaling is None:
        return frequencies
    if scaling.kind == "linear":
        return (frequencies / scaling.factor).astype(np.float32)
    return _scaled_by_wavelength(frequencies, scaling)


def _scaled_by_wavelength(frequencies: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    """Long wavelengths are stretched by the factor, short ones kept, those between blended."""
    turns = scaling.original_max_position * frequencies / (2 * math.pi)
    span = scaling.high_freq_factor - scaling.low_freq_factor
    keep = np.clip((turns - scaling.low_freq_factor) / span, 0.0, 1.0)
    return (frequencies * (keep + (1 - keep) / scaling.factor)).astype(np.float32)
