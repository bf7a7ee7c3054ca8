"""The layers of a dense decoder as Flax NNX modules: each weight is declared here, once.

A declaration is shape, dtype, logical axes and initializer. From it come the abstract tree, the
shardings, random weights and the slots that a checkpoint fills. The modules compute on one shard
of a `shard_map` over the `tensor` axis: sizes are read off the weights, sums over shards are
explicit. They know no KV pool, no batch and no file.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from models.config import ModelConfig
from models.sharding import TENSOR, LogicalAxes

type Initializer = Callable[[jax.Array, tuple[int, ...], jnp.dtype], jax.Array]

_NORMAL: Initializer = jax.nn.initializers.normal(0.02)
_ONES: Initializer = jax.nn.initializers.ones
_ZEROS: Initializer = jax.nn.initializers.zeros


def declare(
    rngs: nnx.Rngs,
    shape: tuple[int, ...],
    axes: LogicalAxes,
    dtype: jnp.dtype,
    initializer: Initializer = _NORMAL,
) -> nnx.Param[jax.Array]:
    """One weight. `axes` names a logical axis (or None) for every dimension of `shape`."""
    return nnx.Param(initializer(rngs.params(), shape, dtype), logical_axes=axes)


def sum_over_shards(x: jax.Array) -> jax.Array:
    """Add up the shards' partial results along the tensor axis."""
    return jax.lax.psum(x, TENSOR)


def dot(x: jax.Array, w: jax.Array) -> jax.Array:
    """`x` [T, in] times `w` [in, out], summed in float32.

    The operands meet in the weight's dtype and the result is asked for in float32: otherwise XLA
    for CPU converts the whole weight to float32 at every step.
    """
    return jnp.dot(x.astype(w.dtype), w, preferred_element_type=jnp.float32)


class Linear(nnx.Module):
    """A matrix [in, out] and an optional bias."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        shape: tuple[int, int],
        axes: tuple[str, str],
        dtype: jnp.dtype,
        bias: bool,
    ) -> None:
        self.kernel = declare(rngs, shape, axes, dtype)
        self.bias = declare(rngs, shape[1:], axes[1:], dtype, _ZEROS) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = dot(x, self.kernel[...])
        return y if self.bias is None else y + self.bias[...].astype(jnp.float32)

    def partial(self, x: jax.Array) -> jax.Array:
        """The product with an input split over shards: summed, then the bias, once."""
        y = sum_over_shards(dot(x, self.kernel[...]))
        return y if self.bias is None else y + self.bias[...].astype(jnp.float32)


class RmsNorm(nnx.Module):
    """Root-mean-square norm over the last axis (Zhang and Sennrich, 2019), in float32."""

    def __init__(self, rngs: nnx.Rngs, size: int, eps: float, dtype: jnp.dtype) -> None:
        self.scale = declare(rngs, (size,), (None,), dtype, _ONES)
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(jnp.float32)
        variance = jnp.mean(x * x, axis=-1, keepdims=True)
        return x * jax.lax.rsqrt(variance + self.eps) * self.scale[...].astype(jnp.float32)


class QkvProjection(nnx.Module):
    """Queries, keys and values in one matrix, KV head by KV head: its query group, its k, its v.

    Grouped so, the flat output axis splits over shards without cutting a head. With more shards
    than KV heads, `kv_heads` counts each copy.
    """

    def __init__(
        self, rngs: nnx.Rngs, config: ModelConfig, kv_heads: int, dtype: jnp.dtype
    ) -> None:
        self.group = config.num_heads // kv_heads
        self.head_dim = config.head_dim
        size = kv_heads * (self.group + 2) * config.head_dim
        shape, axes = (config.hidden_size, size), ("embed", "kv_heads")
        self.linear = Linear(rngs, shape, axes, dtype, config.qkv_bias)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """q [T, K, G, H], k [T, K, H] and v [T, K, H] of this shard's KV heads."""
        y = self.linear(x).reshape(x.shape[0], -1, self.group + 2, self.head_dim)
        return y[:, :, : self.group], y[:, :, self.group], y[:, :, self.group + 1]


class Mlp(nnx.Module):
    """SwiGLU (Shazeer, 2020). Gate and up share one matrix, side by side within each shard."""

    def __init__(self, rngs: nnx.Rngs, config: ModelConfig, dtype: jnp.dtype) -> None:
        d, f = config.hidden_size, config.mlp_size
        self.gate_up = Linear(rngs, (d, 2 * f), ("embed", "mlp"), dtype, config.mlp_bias)
        self.down = Linear(rngs, (f, d), ("mlp", "embed"), dtype, config.mlp_bias)

    def __call__(self, x: jax.Array) -> jax.Array:
        gate, up = jnp.split(self.gate_up(x), 2, axis=-1)
        return self.down.partial(jax.nn.silu(gate) * up)


class Embedding(nnx.Module):
    """Token vectors [V, D], split over shards by vocabulary; also the output head."""

    def __init__(self, rngs: nnx.Rngs, vocab: int, hidden: int, dtype: jnp.dtype) -> None:
        self.table = declare(rngs, (vocab, hidden), ("vocab", "embed"), dtype)

    def __call__(self, token_ids_T: jax.Array) -> jax.Array:
        """Token vectors, float32 [T, D], from the shards that own the ids."""
        table = self.table[...]
        local = token_ids_T - jax.lax.axis_index(TENSOR) * table.shape[0]
        owned = (local >= 0) & (local < table.shape[0])
        rows = table[jnp.clip(local, 0, table.shape[0] - 1)].astype(jnp.float32)
        return sum_over_shards(jnp.where(owned[:, None], rows, 0.0))

    def logits(self, x: jax.Array) -> jax.Array:
        """This shard's part of the logits, float32 [T, V / shards]."""
        table = self.table[...]
        return jax.lax.dot_general(
            x.astype(table.dtype),
            table,
            (((1,), (1,)), ((), ())),
            preferred_element_type=jnp.float32,
        )
