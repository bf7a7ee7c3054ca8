"""The residual stream's placement on the tensor axis, and the collectives that follow from it.

If every shard holds the whole stream, an all-reduce adds up partial sums. If the shards split the
stream by token (sequence parallelism, Korthikanti et al., 2022), a reduce-scatter adds up and
splits partial sums, norms and residual sums run on a part of the tokens, and a matrix product
gathers its input first. Both move equally many bytes; the second divides the work between products
by the number of shards.
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
        """All tokens' rows, gathered from the tokens that each shard keeps."""
        return jax.lax.all_gather(x, TENSOR, tiled=True) if self.is_split else x

    def reduce(self, x: jax.Array) -> jax.Array:
        """The sum of the shards' partial rows, for the tokens that this shard keeps."""
        if self.is_split:
            return jax.lax.psum_scatter(x, TENSOR, tiled=True)
        return jax.lax.psum(x, TENSOR)


def any_rank(flags: jax.Array) -> jax.Array:
    """Whether any flag is set on any rank of the data axis.

    A branch with collectives depends on this value, because either all devices of a program must
    take the branch or none.
    """
    is_any = jnp.any(flags)
    if jax.lax.axis_size(DATA) == 1:
        return is_any
    return jax.lax.psum(is_any.astype(jnp.int32), DATA) > 0
