"""The interface of attention over a paged KV pool: one protocol, and the inputs of every backend.

A pool holds the blocks of all layers of one kind. A row's block table lists, in order, the blocks
that hold the row's tokens; writes of padding go to block 0. A backend chooses the pool's arrays.
Per step and kind it makes one plan for all layers; per layer it writes the new keys and values and
attends. Knows neither weights nor scheduling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

# A pytree of arrays, or the same pytree with the arrays' shapes or PartitionSpecs as leaves.
type Pool = Any
type Plan = Any


class StateSlots(NamedTuple):
    """Where the recurrent states of a step's rows are: numbers of slots.

    A row reads its state from `read_S` and writes it to `written_S`. The state after the row's
    first `kept_at_S` tokens is also kept, in `kept_S`; where that is 0, no state is, and `kept_S`
    is the last slot, which is nobody's.
    """

    read_S: jax.Array
    written_S: jax.Array
    kept_S: jax.Array
    kept_at_S: jax.Array


class Ragged(NamedTuple):
    """The row and position of each token of a step. Decodes are the first rows, padding rows empty.

    `positions_T` is a token's position in its sequence and `row_T` its row; both are arbitrary
    where `is_padding_T`. `block_tables_KSB` has one table per kind of layers. `seq_lens_S` is the
    KV length after this step, `query_start_S1` the cumulative number of tokens. The first
    `num_decodes` rows have one token each, at the index of the row. Only the first `num_rows` rows
    have tokens. Where a step may have images, `last_seen_T` is the last position of its row that a
    token sees in layers where images see themselves, `image_start_M` the place of each image's
    first token, T for no image, and `image_size_M` the number of its tokens. Where layers have a
    state, `slots` says where those of the rows are.
    """

    positions_T: jax.Array
    row_T: jax.Array
    is_padding_T: jax.Array
    block_tables_KSB: jax.Array
    seq_lens_S: jax.Array
    query_start_S1: jax.Array
    num_decodes: jax.Array
    num_rows: jax.Array
    last_seen_T: jax.Array | None = None
    image_start_M: jax.Array | None = None
    slots: StateSlots | None = None
    image_size_M: jax.Array | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolShape:
    """One pool's size: `num_blocks` blocks of `block_size` tokens, counted over all shards."""

    num_blocks: int
    block_size: int
    kv_heads: int
    head_dim: int
    dtype: jnp.dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSpec:
    """The compile-time constants of attention for one kind of layers on one shard.

    `window` limits a token to the last `window` positions, itself included. If `bidirectional`, it
    also sees as many later ones of its row, which the step must hold. Scores are multiplied by
    `scale`, then capped to `softcap * tanh(score / softcap)`. No row has more than `row_tokens`
    tokens; None promises nothing. The tokens of an image, at most `image_tokens`, see one another;
    0: they do not. `cpu_kernels` leaves rows of few tokens to the kernels of `models.cpu_kernels`.
    """

    kv_heads: int
    group: int
    head_dim: int
    window: int | None
    scale: float
    softcap: float | None
    block_size: int
    kv_dtype: jnp.dtype
    row_tokens: int | None
    bidirectional: bool = False
    image_tokens: int = 0
    cpu_kernels: bool = False

    @property
    def decode_only(self) -> bool:
        return self.row_tokens == 1


class Backend(Protocol):
    """A backend. Frozen and hashable, because it is part of the layout that programs depend on."""

    def abstract_pool(self, shape: PoolShape) -> Pool:
        """The pool's arrays as shapes and dtypes, all shards together."""

    def pool_specs(self) -> Pool:
        """The PartitionSpecs of the pool's arrays: split by KV heads, blocks by data rank."""

    def block_size(self, pool: Pool) -> int:
        """Tokens per block, from a pool's arrays."""

    def plan(self, spec: AttentionSpec, ragged: Ragged) -> Plan:
        """The plan that all layers of one kind share in one step."""

    def attend(
        self,
        spec: AttentionSpec,
        plan: Plan,
        q_KTGH: jax.Array,
        kv_TK2H: jax.Array,
        pool: Pool,
        table_SB: jax.Array,
        sinks_KG: jax.Array | None = None,
    ) -> tuple[jax.Array, Pool]:
        """Write keys and values (in the pool's dtype) into their slots, then attend.

        Attention is causal unless the spec is bidirectional; tokens of an image see all of it.

        `table_SB` has block numbers within the whole pool. `sinks_KG` has a score for each query
        head that takes part in the softmax and has no value. Returns [K, T, G, H] in q's dtype.
        """
