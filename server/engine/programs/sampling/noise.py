"""Gumbel noise for sampling: a hash of only (seed, choice, position, token id).

So a request draws with the same noise in any batch, on any mesh and on any replica. Knows neither
logits nor filters.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.extend.random import threefry_2x32

from server.engine.programs.inputs.step_input import SamplingInput
from server.engine.programs.sampling.sharded_vocab import first_id


def gumbel(inputs: SamplingInput, num_columns: int) -> jax.Array:
    """Gumbel noise [S, V] for this shard's columns.

    Threefry-2x32 (Salmon et al., 2011) hashes two counters to two words, so ids are hashed in
    pairs. A shard's vocabulary must therefore be even.
    """
    pairs = (jnp.arange(num_columns // 2) + first_id(num_columns) // 2).astype(jnp.uint32)
    pairs = jnp.broadcast_to(pairs, (inputs.choice.shape[0], num_columns // 2))
    words = jnp.stack(_hash(inputs, pairs), axis=2)
    return _to_gumbel(words.reshape(words.shape[0], -1))


def gumbel_of(inputs: SamplingInput, ids_SC: jax.Array) -> jax.Array:
    """The same noise, for only these token ids."""
    first, second = _hash(inputs, (ids_SC // 2).astype(jnp.uint32))
    return _to_gumbel(jnp.where(ids_SC % 2 == 0, first, second))


def _hash(inputs: SamplingInput, pairs_SN: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two words for every pair of token ids, keyed by the row's seed, choice and position."""

    def row(
        seed: jax.Array, choice: jax.Array, position: jax.Array, pairs: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        key = threefry_2x32(seed, jnp.stack([choice, position]))
        words = threefry_2x32(key, jnp.concatenate([pairs, jnp.zeros_like(pairs)]))
        first, second = jnp.split(words, 2)
        return first, second

    words: tuple[jax.Array, jax.Array] = jax.vmap(row)(
        inputs.seed, inputs.choice, inputs.position, pairs_SN
    )
    return words


def _to_gumbel(bits: jax.Array) -> jax.Array:
    # The largest words would round up to 1, whose noise is infinite. Small words make the largest
    # noise, which wins: they keep all their bits.
    tail = jnp.minimum((bits.astype(jnp.float32) + 0.5) * 2.0**-32, 1 - 2.0**-24)
    return -jnp.log(-jnp.log1p(-tail))
