"""The one interface of attention over a paged KV pool, and what every backend is told.

A pool holds the blocks of all layers of one kind; a row's block table says which hold its tokens,
in order, and block 0 takes the writes of padding. A backend decides the pool's arrays, plans once a
step and kind what does not change from layer to layer, then writes a layer's new keys and values
and attends. It knows no weights and no scheduling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

# A pytree of arrays; or, of the same tree, of their shapes or PartitionSpecs.
type Pool = Any
type Plan = Any


class Ragged(NamedTuple):
    """Where each token of a step belongs. Rows come decodes first; padding rows are empty.

    `positions_T` is the token's position in its sequence, `row_T` its row (padding: any, with
    `is_padding_T`). `block_tables_KSB` has a table a kind of layers. `seq_lens_S` is the KV length
    after this step, `query_start_S1` cumulative. The first `num_decodes` rows have one token each,
    at the same index as the row; `num_rows` have any.
    """

    positions_T: jax.Array
    row_T: jax.Array
    is_padding_T: jax.Array
    block_tables_KSB: jax.Array
    seq_lens_S: jax.Array
    query_start_S1: jax.Array
    num_decodes: jax.Array
    num_rows: jax.Array


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolShape:
    """One pool's size: `num_blocks` in all, of `block_size` tokens, over all shards."""

    num_blocks: int
    block_size: int
    kv_heads: int
    head_dim: int
    dtype: jnp.dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSpec:
    """What is static about one kind of layers on one shard.

    `window` limits a token to the last `window` positions, itself included. Scores are multiplied
    by `scale`, then capped to `softcap * tanh(score / softcap)`. `decode_only` promises one token
    a row.
    """

    kv_heads: int
    group: int
    head_dim: int
    window: int | None
    scale: float
    softcap: float | None
    block_size: int
    kv_dtype: jnp.dtype
    decode_only: bool


class Backend(Protocol):
    """A way to attend. Frozen and hashable: it is part of the layout that programs depend on."""

    def abstract_pool(self, shape: PoolShape) -> Pool:
        """The pool's arrays as shapes and dtypes, all shards together."""

    def pool_specs(self) -> Pool:
        """The PartitionSpecs of the pool's arrays: split by KV heads, blocks by data rank."""

    def block_size(self, pool: Pool) -> int:
        """Tokens of one block, read off a pool's arrays."""

    def plan(self, spec: AttentionSpec, ragged: Ragged) -> Plan:
        """What all layers of a kind share in one step."""

    def attend(
        self,
        spec: AttentionSpec,
        plan: Plan,
        q_KTGH: jax.Array,
        kv_TK2H: jax.Array,
        pool: Pool,
        table_SB: jax.Array,
    ) -> tuple[jax.Array, Pool]:
        """Write keys and values (of the pool's dtype) into their slots, then attend causally.

        `table_SB` counts blocks of the whole pool. Returns [K, T, G, H] in q's dtype.
        """
