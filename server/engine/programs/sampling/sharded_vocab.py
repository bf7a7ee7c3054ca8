"""Row-wise reductions over logits that are split over shards by vocabulary.

Each reduces a few numbers per row and never gathers the logits. Runs inside a `shard_map` over the
tensor axis. Every shard holds the same number of columns.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from models.sharding import TENSOR

_INT32_MAX = 2**31 - 1


def first_id(num_columns: int) -> jax.Array:
    """The token id of this shard's first column."""
    return jax.lax.axis_index(TENSOR) * num_columns


def local_columns(token_ids: jax.Array, num_columns: int) -> jax.Array:
    """This shard's columns for token ids; ids of other shards, and -1, become out of range."""
    local = token_ids - first_id(num_columns)
    return jnp.where((token_ids >= 0) & (local >= 0), local, num_columns)


def row_max(x_SV: jax.Array) -> jax.Array:
    """The maximum per row, [S]."""
    return jax.lax.pmax(jnp.max(x_SV, axis=1), TENSOR)


def row_sum(x_SV: jax.Array) -> jax.Array:
    """The sum per row, [S]."""
    return jax.lax.psum(jnp.sum(x_SV, axis=1), TENSOR)


def row_argmax(x_SV: jax.Array) -> jax.Array:
    """The id of the largest entry per row over all shards, [S]; the smallest id among equals."""
    # Not fused with its input: on CPU, what makes the entries would then not be vectorized and
    # would be several times slower. Nor is XLA's own argmax, which carries a pair: the place of the
    # maximum takes a twentieth of its time.
    x_SV = jax.lax.optimization_barrier(x_SV)
    is_best = x_SV == row_max(x_SV)[:, None]
    token_id = jnp.arange(x_SV.shape[1], dtype=jnp.int32) + first_id(x_SV.shape[1])
    return jax.lax.pmin(jnp.min(jnp.where(is_best, token_id, _INT32_MAX), axis=1), TENSOR)


def row_top(x_SV: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """The largest entries of every row, in order, and their token ids: [S, count] each.

    There are fewer than `count` where there are fewer columns.
    """
    num_columns = x_SV.shape[1]
    top, column = jax.lax.top_k(x_SV, min(count, num_columns))
    if jax.lax.axis_size(TENSOR) == 1:
        return top, column
    top = jax.lax.all_gather(top, TENSOR, axis=1, tiled=True)
    ids = jax.lax.all_gather(column + first_id(num_columns), TENSOR, axis=1, tiled=True)
    top, order = jax.lax.top_k(top, min(count, top.shape[1]))
    return top, jnp.take_along_axis(ids, order, axis=1)
