"""How the residual stream lies on the tensor axis, and the collectives that follow from it.

Repeated on every shard, a partial sum is added up by an all-reduce. Split by token (sequence
parallelism, Korthikanti et al., 2022), it is added up and split by a reduce-scatter, norms and
residual sums run on a part of the tokens, and a matrix product gathers its input first. The bytes
moved are the same; the work between products is divided by the shards.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from models.sharding import DATA, TENSOR


@dataclass(frozen=True, slots=True)
class Residual:
    """The placement of the residual stream [T, D] in one program."""

    is_split: bool

    def gather(self, x: jax.Array) -> jax.Array:
        """All tokens' rows, from the tokens this shard keeps."""
        return jax.lax.all_gather(x, TENSOR, tiled=True) if self.is_split else x

    def reduce(self, x: jax.Array) -> jax.Array:
        """The shards' partial rows added up, as the tokens this shard keeps."""
        if self.is_split:
            return jax.lax.psum_scatter(x, TENSOR, tiled=True)
        return jax.lax.psum(x, TENSOR)


def any_rank(flags: jax.Array) -> jax.Array:
    """Whether any is set on any rank of the data axis.

    A branch that holds collectives depends on this: all devices of a program take it, or none.
    """
    is_any = jnp.any(flags)
    if jax.lax.axis_size(DATA) == 1:
        return is_any
    return jax.lax.psum(is_any.astype(jnp.int32), DATA) > 0
