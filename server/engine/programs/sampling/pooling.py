"""Sums the hidden states of pooled tokens per row, inside the step's `shard_map`.

A step without pooled tokens skips the sums. Knows neither what a sum is for nor why a token counts.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from models.decoder.parallel import any_rank
from models.sharding import DATA
from server.engine.programs.inputs.step_input import POOLED


def pool(x_TD: jax.Array, row_T: jax.Array, target_T: jax.Array, num_rows: int) -> jax.Array:
    """The sums of all ranks, float32 [ranks x S, D] on every device; zeros where none is pooled."""
    num_ranks, size = jax.lax.axis_size(DATA), x_TD.shape[1]
    is_pooled_T = target_T == POOLED

    def run() -> jax.Array:
        chosen_ST = (row_T == jnp.arange(num_rows)[:, None]) & is_pooled_T
        sums_SD = _sum(x_TD, chosen_ST)
        # Inside the branch, so that a step without pooled tokens moves nothing between ranks.
        return jax.lax.all_gather(sums_SD, DATA, tiled=True) if num_ranks > 1 else sums_SD

    def skip() -> jax.Array:
        return jnp.zeros((num_ranks * num_rows, size), jnp.float32)

    return jax.lax.cond(any_rank(is_pooled_T), run, skip)


def _sum(x_TD: jax.Array, chosen_ST: jax.Array) -> jax.Array:
    """Each row's sum of its chosen tokens, NaN where one of them is not finite.

    A product with zeros and ones adds without a scatter, and rounds nothing but the sum. Zero times
    NaN is NaN, so what is not finite, in padding or in another row, must not enter the product.
    """
    is_finite_TD = jnp.isfinite(x_TD)
    sums_SD = jnp.matmul(
        chosen_ST.astype(x_TD.dtype),
        jnp.where(is_finite_TD, x_TD, 0),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    is_broken_S = jnp.any(chosen_ST & ~jnp.all(is_finite_TD, axis=1), axis=1)
    return jnp.where(is_broken_S[:, None], jnp.nan, sums_SD)
