"""Where the states of recurrent layers are: pools of slots, and which slot a row of a step has.

A row reads its state from one slot and writes it to another, mostly the same; a row of several
tokens may also keep the state at a place on its way, in a third slot. A row whose first token is
its sequence's first begins with a state of zeros, whatever its slot holds. The last slot takes what
is written for padding. Knows neither what a state means nor who has a slot.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from models.attention.base import Ragged, StateSlots
from models.config import ModelConfig, RecurrenceConfig
from models.decoder.delta_rule import TILE_TOKENS
from models.decoder.layout import DecoderLayout
from models.sharding import DATA, TENSOR

# An array, its shape or its PartitionSpec.
type Leaf = Any


class StatePool(NamedTuple):
    """N slots: the last inputs of the convolution, and the heads' matrices.

    [N, inputs x channels], flat because a TPU pads the last two dimensions to whole tiles; a
    shard's part is its own channels of each input. Float32 [N, value heads, key, value].
    """

    conv: Leaf
    heads: Leaf


class StatePlan(NamedTuple):
    """What all recurrent layers of a step share. S rows, T tokens; a decode has one token.

    `slots` are those of the rows; `decode_slot_S` is where decodes write, the last slot for other
    rows. Only a decode that `continues_S` reads its slot. `num_tiles_S` is 0 for decodes,
    `tile_end_S` its running sum; a row's first `num_kept_tiles_S` end where it keeps its state.
    `offset_T` is a token's place in its row.
    """

    slots: StateSlots
    decode_slot_S: jax.Array
    is_new_S: jax.Array
    continues_S: jax.Array
    query_start_S1: jax.Array
    row_T: jax.Array
    offset_T: jax.Array
    num_tiles_S: jax.Array
    num_kept_tiles_S: jax.Array
    tile_end_S: jax.Array

    def starting_at(self, first: Any) -> StatePlan:
        """The same for a layer whose slots begin at slot `first` of its pool."""
        slots = self.slots
        moved = StateSlots(
            slots.read_S + first, slots.written_S + first, slots.kept_S + first, slots.kept_at_S
        )
        return self._replace(slots=moved, decode_slot_S=self.decode_slot_S + first)


def state_plan(ragged: Ragged, num_slots: int) -> StatePlan:
    """The plan of a step over pools of `num_slots` slots for each layer."""
    slots = ragged.slots
    assert slots is not None
    counts_S = jnp.diff(ragged.query_start_S1)
    is_decode_S = jnp.arange(counts_S.shape[0]) < ragged.num_decodes
    is_new_S = ragged.seq_lens_S == counts_S
    num_kept_tiles_S = -(-slots.kept_at_S // TILE_TOKENS)
    num_tiles_S = num_kept_tiles_S - (-(counts_S - slots.kept_at_S) // TILE_TOKENS)
    num_tiles_S = jnp.where(is_decode_S, 0, num_tiles_S)
    tokens = jnp.arange(ragged.row_T.shape[0])
    return StatePlan(
        slots=slots,
        decode_slot_S=jnp.where(is_decode_S, slots.written_S, num_slots - 1),
        is_new_S=is_new_S,
        continues_S=is_decode_S & ~is_new_S,
        query_start_S1=ragged.query_start_S1,
        row_T=ragged.row_T,
        offset_T=tokens - ragged.query_start_S1[ragged.row_T],
        num_tiles_S=num_tiles_S,
        num_kept_tiles_S=num_kept_tiles_S,
        tile_end_S=jnp.cumsum(num_tiles_S),
    )


def abstract_states(
    config: ModelConfig, layout: DecoderLayout, num_slots: int
) -> tuple[StatePool, ...]:
    """The pools of a decoder as shapes and dtypes, all shards together.

    One pool for each listed layer, or one for all stacked ones; () for a model without states.
    """
    of = config.recurrence
    if of is None:
        return ()
    num_pools = 1 if layout.stacked else config.num_recurrent
    slots = num_slots * (config.num_recurrent // num_pools)
    conv = (slots, (of.conv_size - 1) * conv_channels(of))
    heads = (slots, of.num_value_heads, of.key_dim, of.value_dim)
    pool = StatePool(
        jax.ShapeDtypeStruct(conv, layout.activation_dtype),
        jax.ShapeDtypeStruct(heads, jnp.dtype(jnp.float32)),
    )
    return (pool,) * num_pools


def conv_channels(recurrence: RecurrenceConfig) -> int:
    """What the convolution runs over: queries, keys and values of all heads."""
    return 2 * recurrence.key_size + recurrence.value_size


def state_pool_specs() -> StatePool:
    """The split of a pool: slots by data rank, channels and heads by shard."""
    split = PartitionSpec(DATA, TENSOR)
    return StatePool(split, split)
