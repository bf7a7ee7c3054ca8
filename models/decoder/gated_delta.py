"""A gated delta net: the layer that has a state in the place of attention (Yang et al., 2024).

Queries, keys and values pass a short causal convolution, then the gated delta rule; its output is
normed by head, gated and projected back. A step's decodes are computed token by token, all rows
together; longer rows tile by tile, one tile after another. Each shard has its own heads. Knows
neither blocks nor sequences.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from models.config import ModelConfig
from models.decoder.delta_rule import (
    TILE_TOKENS,
    DeltaInputs,
    delta_step,
    delta_tile,
    of_length_one,
)
from models.decoder.layers import Linear, RmsNorm
from models.decoder.layout import DecoderLayout
from models.decoder.parallel import Residual
from models.decoder.state_pool import StatePlan, StatePool, conv_channels
from models.parameters import declare, ones

_F32 = jnp.dtype(jnp.float32)


class GatedDelta(nnx.Module):
    """The mixer of a recurrent layer.

    `inputs` makes queries, keys, values and output gates, side by side within each shard; `gates`
    makes beta and the decay of each value head, and is never int8.
    """

    def __init__(self, rngs: nnx.Rngs, config: ModelConfig, layout: DecoderLayout) -> None:
        of = config.recurrence
        assert of is not None
        d, heads = config.hidden_size, of.num_value_heads
        width = conv_channels(of) + of.value_size
        self.inputs = Linear(rngs, (d, width), ("embed", "state_heads"), layout, False)
        self.gates = declare(rngs, (d, 2 * heads), ("embed", "state_heads"), layout.dtype)
        shape = (of.conv_size, conv_channels(of))
        self.conv = declare(rngs, shape, (None, "state_heads"), _F32)
        self.log_rate = declare(rngs, (heads,), ("state_heads",), _F32)
        self.rate_bias = declare(rngs, (heads,), ("state_heads",), _F32, ones)
        self.norm = RmsNorm(rngs, of.value_dim, config.rms_norm_eps)
        back = (of.value_size, d)
        self.output = Linear(rngs, back, ("state_heads", "embed"), layout, False)
        self.key_dim, self.value_dim = of.key_dim, of.value_dim
        self.key_size = of.key_size // layout.tensor_size

    def __call__(
        self,
        x_TD: jax.Array,
        norm_T1: jax.Array,
        pool: StatePool,
        plan: StatePlan,
        residual: Residual,
        row_tokens: int | None,
    ) -> tuple[jax.Array, StatePool]:
        """The layer's output for the residual stream, and the pool with the rows' new states."""
        assert row_tokens in (None, 1)
        taken, gate = jnp.split(self.inputs(x_TD, norm_T1), [self.conv.shape[1]], axis=1)
        mixed, conv = self._convolve(taken, pool.conv, plan, row_tokens)
        inputs = self._delta_inputs(mixed, x_TD, norm_T1)
        out, heads = decode(inputs, pool.heads, plan)
        if row_tokens is None:
            out, heads = prefill(inputs, out, heads, plan)
        gate = jax.nn.silu(gate.astype(_F32).reshape(out.shape))
        out = (self.norm(out) * gate).astype(x_TD.dtype).reshape(len(x_TD), -1)
        return self.output.partial(out, residual), StatePool(conv, heads)

    def _convolve(
        self, x_TC: jax.Array, pool: jax.Array, plan: StatePlan, row_tokens: int | None
    ) -> tuple[jax.Array, jax.Array]:
        """Each channel's sum over its last inputs, float32 [T, C], and the pool of those inputs."""
        weight = self.conv[...]
        size, channels = weight.shape
        held = pool[plan.slots.read_S].reshape(-1, size - 1, channels)
        held = jnp.where(plan.is_new_S[:, None, None], 0, held)
        y_TC = x_TC.astype(_F32) * weight[-1]
        for back in range(1, size):
            place_T = jnp.clip(size - 1 + plan.offset_T - back, 0, size - 2)
            before = held[plan.row_T, place_T]
            before = jnp.where(plan.offset_T[:, None] >= back, jnp.roll(x_TC, back, 0), before)
            y_TC = y_TC + before.astype(_F32) * weight[size - 1 - back]
        counts_S = jnp.diff(plan.query_start_S1)
        pool = pool.at[plan.slots.written_S].set(_last_inputs(x_TC, held, plan, counts_S))
        if row_tokens is None:
            kept = _last_inputs(x_TC, held, plan, plan.slots.kept_at_S)
            pool = pool.at[plan.slots.kept_S].set(kept)
        return jax.nn.silu(y_TC), pool

    def _delta_inputs(
        self, mixed_TC: jax.Array, x_TD: jax.Array, norm_T1: jax.Array
    ) -> DeltaInputs:
        """Queries and keys are repeated, so that each value head has its own."""
        q, k, v = jnp.split(mixed_TC, [self.key_size, 2 * self.key_size], axis=1)
        q, k = (of_length_one(x.reshape(len(x), -1, self.key_dim)) for x in (q, k))
        v = v.reshape(len(v), -1, self.value_dim)
        q, k = (jnp.repeat(x, v.shape[1] // x.shape[1], axis=1) for x in (q, k))
        w = self.gates[...]
        gates = jnp.dot(x_TD.astype(w.dtype), w, preferred_element_type=_F32) * norm_T1
        beta, rate = jnp.split(gates, 2, axis=1)
        decay = -jnp.exp(self.log_rate[...]) * jax.nn.softplus(rate + self.rate_bias[...])
        return DeltaInputs(q * self.key_dim**-0.5, k, v, decay, jax.nn.sigmoid(beta))


def _last_inputs(
    x_TC: jax.Array, held_SWC: jax.Array, plan: StatePlan, counts_S: jax.Array
) -> jax.Array:
    """Of each row, the last of the inputs that it held and of its first `counts_S`: [S, W x C]."""
    size = held_SWC.shape[1]
    start = plan.query_start_S1[:-1, None]
    place_SW = jnp.arange(size) + counts_S[:, None]
    own = x_TC[jnp.clip(start + place_SW - size, 0, len(x_TC) - 1)]
    kept = jnp.take_along_axis(held_SWC, jnp.clip(place_SW, 0, size - 1)[..., None], axis=1)
    return jnp.where(place_SW[..., None] >= size, own, kept).reshape(len(held_SWC), -1)


def decode(inputs: DeltaInputs, pool: jax.Array, plan: StatePlan) -> tuple[jax.Array, jax.Array]:
    """The decodes of a step, whose tokens come first: outputs [T, N, value], zero for the rest."""
    num_rows, num_tokens = len(plan.decode_slot_S), len(inputs.v)
    first = jax.tree.map(lambda x: x[:num_rows], inputs)
    state = jnp.where(plan.continues_S[:, None, None, None], pool[plan.slots.read_S], 0.0)
    out, state = delta_step(first, state)
    rest = ((0, num_tokens - num_rows), (0, 0), (0, 0))
    return jnp.pad(out, rest), pool.at[plan.decode_slot_S].set(state)


def prefill(
    inputs: DeltaInputs, out: jax.Array, pool: jax.Array, plan: StatePlan
) -> tuple[jax.Array, jax.Array]:
    """The rows that are no decodes: their outputs put into `out`, their states into the pool.

    Tiles run in the order of their tokens, so the next one overwrites what a tile puts beyond its
    end. As many run as there are.
    """
    slots, all_inputs = plan.slots, jax.tree.map(_padded, inputs)

    def tile(i: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        out, pool = carry
        row = jnp.searchsorted(plan.tile_end_S, i, side="right")
        number = i - plan.tile_end_S[row] + plan.num_tiles_S[row]
        start, is_own, is_kept = _place(plan, row, number)
        own = jax.tree.map(lambda x: _own_part(x, start, is_own), all_inputs)
        is_first = number == 0
        state = pool[jnp.where(is_first, slots.read_S[row], slots.written_S[row])]
        done, state = delta_tile(own, jnp.where(is_first & plan.is_new_S[row], 0.0, state))
        pool = jax.lax.dynamic_update_index_in_dim(pool, state, slots.written_S[row], 0)
        kept_slot = jnp.where(is_kept, slots.kept_S[row], slots.written_S[row])
        pool = jax.lax.dynamic_update_index_in_dim(pool, state, kept_slot, 0)
        return jax.lax.dynamic_update_slice_in_dim(out, done, start, 0), pool

    out, pool = jax.lax.fori_loop(0, plan.tile_end_S[-1], tile, (_padded(out), pool))
    return out[:-TILE_TOKENS], pool


def _padded(x: jax.Array) -> jax.Array:
    return jnp.pad(x, ((0, TILE_TOKENS), *((0, 0),) * (x.ndim - 1)))


def _place(
    plan: StatePlan, row: jax.Array, number: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A tile's first token, which tokens from there on are its own, and whether its row keeps the
    state after it."""
    kept_at, num_kept = plan.slots.kept_at_S[row], plan.num_kept_tiles_S[row]
    is_before = number < num_kept
    offset = jnp.where(is_before, number * TILE_TOKENS, kept_at + (number - num_kept) * TILE_TOKENS)
    count = plan.query_start_S1[row + 1] - plan.query_start_S1[row]
    is_own = jnp.arange(TILE_TOKENS) < jnp.where(is_before, kept_at, count) - offset
    return plan.query_start_S1[row] + offset, is_own, number == num_kept - 1


def _own_part(x: jax.Array, start: jax.Array, is_own: jax.Array) -> jax.Array:
    """A tile's tokens, with zeros for those of other rows."""
    part = jax.lax.dynamic_slice_in_dim(x, start, TILE_TOKENS)
    return jnp.where(is_own.reshape(-1, *(1,) * (x.ndim - 1)), part, 0.0)
