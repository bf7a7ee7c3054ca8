"""Declares a model's weights: each with a shape, a dtype and a logical axis per dimension.

Knows neither layers nor checkpoints; `sharding` says where a logical axis lies on a mesh.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from models.sharding import LogicalAxes

type Initializer = Callable[[jax.Array, tuple[int, ...], jnp.dtype], jax.Array]

_NORMAL: Initializer = jax.nn.initializers.normal(0.02)
ones: Initializer = jax.nn.initializers.ones
zeros: Initializer = jax.nn.initializers.zeros


def declare(
    rngs: nnx.Rngs,
    shape: tuple[int, ...],
    axes: LogicalAxes,
    dtype: jnp.dtype,
    initializer: Initializer = _NORMAL,
) -> nnx.Param[jax.Array]:
    """One weight. `axes` names a logical axis (or None) for every dimension of `shape`."""
    return nnx.Param(initializer(rngs.params(), shape, dtype), logical_axes=axes)
