"""Rotary position embedding: frequencies (with the scalings of Llama 3 and YaRN) and the rotation.

The rotation is that of Su et al., RoFormer (2021), in the half-split form of Hugging Face
checkpoints. The scaling by wavelength follows the Llama 3.1 reference code, the other one Peng et
al., YaRN (2023).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from models.config import QueryGrowth, RopeConfig, RopeScaling


class RopeTables(NamedTuple):
    """Cosine and sine of every token's angles, float32, as the rotations take them.

    [T, 1, H] for queries, and [T, 1, 2, H] for keys with values; the angle of values is zero. Where
    only a part of a head is rotated, the angle of the rest is zero. Made once per step: inside a
    scan of layers, every layer would make them again.
    """

    q_cos: jax.Array
    q_sin: jax.Array
    kv_cos: jax.Array
    kv_sin: jax.Array


def rotated_size(config: RopeConfig, head_dim: int) -> int:
    """How many numbers of a head are rotated, its first ones."""
    return int(head_dim * config.part)


def rope_frequencies(config: RopeConfig, head_dim: int) -> np.ndarray:
    """Radians per position for each pair of the rotated part: float32 [head_dim x part / 2]."""
    head_dim = rotated_size(config, head_dim)
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = (1.0 / np.float32(config.theta) ** exponents).astype(np.float32)
    frequencies[int(config.turning * head_dim // 2) :] = 0.0
    return _scaled(frequencies, config, head_dim)


def rope_tables(config: RopeConfig, head_dim: int, positions_T: jax.Array) -> RopeTables:
    """The tables of these positions."""
    frequencies = jnp.asarray(rope_frequencies(config, head_dim))
    angles = positions_T.astype(jnp.float32)[:, None] * frequencies
    cos, sin = (jnp.concatenate([t, t], axis=-1) for t in (jnp.cos(angles), jnp.sin(angles)))
    if config.scaling is not None and config.scaling.attention_factor != 1.0:
        cos, sin = cos * config.scaling.attention_factor, sin * config.scaling.attention_factor
    rest = ((0, 0), (0, head_dim - cos.shape[1]))
    cos, sin = jnp.pad(cos, rest, constant_values=1.0), jnp.pad(sin, rest)
    kv_cos = jnp.stack([cos, jnp.ones_like(cos)], axis=1)
    kv_sin = jnp.stack([sin, jnp.zeros_like(sin)], axis=1)
    if config.query_growth is not None:
        growth_T1 = query_growth(config.query_growth, positions_T)[:, None]
        cos, sin = cos * growth_T1, sin * growth_T1
    return RopeTables(cos[:, None], sin[:, None], kv_cos[:, None], kv_sin[:, None])


def query_growth(config: QueryGrowth, positions_T: jax.Array) -> jax.Array:
    """What the queries at these positions are multiplied by: float32 [T]."""
    periods = jnp.floor_divide(positions_T, config.period).astype(jnp.float32)
    return 1.0 + config.beta * jnp.log1p(periods)


class HeadScale(NamedTuple):
    """What a norm multiplies heads by before they turn: [H] or [2, H], and a factor of each head.

    Both are applied after turning, which gives the same: the factor is one number per head, and the
    two weights of a pair trade places. So between the projection and the kernel there is nothing
    but products and what is done number by number, for which a TPU moves no head.
    """

    weight: jax.Array
    factor: jax.Array


def rotate_queries(
    q_KTGH: jax.Array, tables: RopeTables, size: int | None = None, scale: HeadScale | None = None
) -> jax.Array:
    """Norm and rotate every query; computed in float32, returned in its dtype.

    Of each head the first `size` numbers are rotated; None: all.
    """
    return _rotate(q_KTGH, tables.q_cos, tables.q_sin, size, scale)


def rotate_keys(
    kv_TK2H: jax.Array, tables: RopeTables, size: int | None = None, scale: HeadScale | None = None
) -> jax.Array:
    """Rotate the keys and keep the values, without the cost of splitting and joining the two."""
    return _rotate(kv_TK2H, tables.kv_cos, tables.kv_sin, size, scale)


def _rotate(
    x: jax.Array, cos: jax.Array, sin: jax.Array, size: int | None, scale: HeadScale | None
) -> jax.Array:
    """Rotate the pairs (i, i + size/2) among the first `size` numbers of x's last axis.

    A product with a matrix of 0, 1 and -1 swaps the halves, which is exact. On a TPU, moving lanes
    costs more than this product; on a CPU it costs no less.
    """
    size = size or x.shape[-1]
    exact = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    swapped = jnp.dot(
        x,
        _swap_halves(size, x.shape[-1], x.dtype),
        precision=exact,
        preferred_element_type=jnp.float32,
    )
    if scale is None:
        return (x.astype(jnp.float32) * cos + swapped * sin).astype(x.dtype)
    cos = cos * scale.weight
    sin = sin * _of_partners(scale.weight, size)
    return ((x.astype(jnp.float32) * cos + swapped * sin) * scale.factor).astype(x.dtype)


def _of_partners(weight: jax.Array, size: int) -> jax.Array:
    """For each number of a head, the weight of the one that it is paired with."""
    half = size // 2
    parts = (weight[..., half:size], weight[..., :half], weight[..., size:])
    return jnp.concatenate(parts, axis=-1)


def _swap_halves(size: int, head_dim: int, dtype: jnp.dtype) -> jax.Array:
    """The matrix that takes (a, b, rest) to (-b, a, 0), a and b of `size` numbers together."""
    one, zero = np.eye(size // 2), np.zeros((size // 2, size // 2))
    rest = (0, head_dim - size)
    return jnp.asarray(np.pad(np.block([[zero, one], [-one, zero]]), (rest, rest)), dtype)


def _scaled(frequencies: np.ndarray, config: RopeConfig, head_dim: int) -> np.ndarray:
    scaling = config.scaling
    if scaling is None:
        return frequencies
    if scaling.kind == "linear":
        return (frequencies / scaling.factor).astype(np.float32)
    if scaling.kind == "yarn":
        return _scaled_by_turns(frequencies, scaling, config.theta, head_dim)
    return _scaled_by_wavelength(frequencies, scaling)


def _scaled_by_wavelength(frequencies: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    """Stretch long wavelengths by the factor, keep short ones, and blend those between."""
    turns = scaling.original_max_position * frequencies / (2 * math.pi)
    span = scaling.high_freq_factor - scaling.low_freq_factor
    keep = np.clip((turns - scaling.low_freq_factor) / span, 0.0, 1.0)
    return (frequencies * (keep + (1 - keep) / scaling.factor)).astype(np.float32)


def _scaled_by_turns(
    frequencies: np.ndarray, scaling: RopeScaling, theta: float, head_dim: int
) -> np.ndarray:
    """Stretch the dimensions of few turns by the factor, keep those of many, blend the others."""

    def dimension_of(turns: float) -> float:
        length = scaling.original_max_position / (turns * 2 * math.pi)
        return head_dim * math.log(length) / (2 * math.log(theta))

    low, high = dimension_of(scaling.beta_fast), dimension_of(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    # Where both are one dimension, the step is still steep and not infinite.
    span = high - low or 0.001
    stretch = np.clip((np.arange(head_dim // 2, dtype=np.float32) - low) / span, 0.0, 1.0)
    kept = frequencies * (1 - stretch)
    return (kept + frequencies / scaling.factor * stretch).astype(np.float32)
