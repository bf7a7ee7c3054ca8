"""Chooses one token per row by the Gumbel-max trick, of those that top_k, top_p and min_p keep.

The filters are exact for any value. The tokens they keep are nearly always among a row's few best
tokens; then only those are read. Otherwise the cut is found by bisection over the ordered bits of
all logits: it counts and does not sort. Which way a row takes depends only on that row. Knows
neither penalties nor the model; the noise comes from `noise`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from models.decoder.parallel import any_rank
from server.engine.programs.inputs.step_input import SamplingInput
from server.engine.programs.sampling.noise import gumbel, gumbel_of
from server.engine.programs.sampling.sharded_vocab import row_argmax, row_max, row_sum, row_top

# The number of best tokens per row that are read before all tokens are.
_NUM_BEST = 64
_INT32_MAX = 2**31 - 1


def choose_tokens(logits_SV: jax.Array, inputs: SamplingInput) -> jax.Array:
    """One token id per row, [S]; meaningless for rows with temperature 0."""
    is_drawn = inputs.temperature > 0
    is_filtered = is_drawn & ((inputs.top_k > 0) | (inputs.top_p < 1) | (inputs.min_p > 0))
    scaled_SV = logits_SV / jnp.where(is_drawn, inputs.temperature, 1.0)[:, None]
    none = jnp.zeros(is_drawn.shape, jnp.int32), jnp.zeros(is_drawn.shape, jnp.bool_)
    few_S, is_settled = jax.lax.cond(
        any_rank(is_filtered), lambda: _choose_among_best(scaled_SV, inputs), lambda: none
    )
    is_settled &= is_filtered
    return jax.lax.cond(
        any_rank(is_drawn & ~is_settled),
        lambda: jnp.where(is_settled, few_S, _choose_among_all(scaled_SV, is_filtered, inputs)),
        lambda: few_S,
    )


class _Best(NamedTuple):
    """The best tokens of every row, in order. `weight` is 0 for tokens that min_p drops.

    `is_all`: min_p keeps no other tokens than these.
    """

    scaled: jax.Array
    ids: jax.Array
    weight: jax.Array
    is_all: jax.Array


def _choose_among_best(scaled_SV: jax.Array, inputs: SamplingInput) -> tuple[jax.Array, jax.Array]:
    """A token drawn from the best, and whether no other token could have been drawn: [S] each."""
    best = _best(scaled_SV, inputs)
    top_k_cut, top_k_settled = _top_k_cut(best, inputs.top_k)
    kept = best.scaled >= top_k_cut[:, None]
    weight = jnp.where(kept, best.weight, 0.0)
    total = jnp.where(
        top_k_cut > -jnp.inf, jnp.sum(weight, axis=1), _total_weight(scaled_SV, inputs)
    )
    top_p_cut = _top_p_cut(best.scaled, weight, inputs.top_p * total)
    cut = jnp.where(inputs.top_p < 1, top_p_cut, top_k_cut)
    # Other tokens may have the same logit as the last of the best, where the cut is.
    is_settled = top_k_settled & (best.is_all | (cut > best.scaled[:, -1]))
    kept = (weight > 0) & (best.scaled >= cut[:, None])
    noisy = jnp.where(kept, best.scaled + gumbel_of(inputs, best.ids), -jnp.inf)
    winner = noisy == jnp.max(noisy, axis=1, keepdims=True)
    return jnp.min(jnp.where(winner, best.ids, _INT32_MAX), axis=1), is_settled


def _best(scaled_SV: jax.Array, inputs: SamplingInput) -> _Best:
    scaled, ids = row_top(scaled_SV, _NUM_BEST)
    weight = jnp.exp(scaled - scaled[:, :1])
    weight = jnp.where(weight >= inputs.min_p[:, None], weight, 0.0)
    return _Best(scaled, ids, weight, weight[:, -1] == 0)


def _top_k_cut(best: _Best, top_k_S: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The k-th best logit that min_p keeps, or -inf for no cut; and whether this is certain."""
    count = best.scaled.shape[1]
    num_kept = jnp.sum(best.weight > 0, axis=1)
    is_cut = (top_k_S > 0) & (top_k_S < num_kept)
    is_within = jnp.arange(count) < jnp.maximum(top_k_S, 1)[:, None]
    value = jnp.min(jnp.where(is_within, best.scaled, jnp.inf), axis=1)
    is_settled = (top_k_S == 0) | best.is_all | (is_cut & (value > best.scaled[:, -1]))
    return jnp.where(is_cut, value, -jnp.inf), is_settled


def _total_weight(scaled_SV: jax.Array, inputs: SamplingInput) -> jax.Array:
    weight = jnp.exp(scaled_SV - row_max(scaled_SV)[:, None])
    return row_sum(jnp.where(weight >= inputs.min_p[:, None], weight, 0.0))


def _top_p_cut(scaled: jax.Array, weight: jax.Array, goal_S: jax.Array) -> jax.Array:
    """The largest value where the weights from there up reach the goal; -inf if none does."""
    reached = jnp.cumsum(weight, axis=1) >= goal_S[:, None]
    return jnp.max(jnp.where(reached, scaled, -jnp.inf), axis=1)


def _choose_among_all(
    scaled_SV: jax.Array, is_filtered: jax.Array, inputs: SamplingInput
) -> jax.Array:
    kept_SV = jax.lax.cond(
        any_rank(is_filtered), lambda x: filter_logits(x, inputs), lambda x: x, scaled_SV
    )
    return row_argmax(kept_SV + gumbel(inputs, scaled_SV.shape[1]))


def filter_logits(scaled_SV: jax.Array, inputs: SamplingInput) -> jax.Array:
    """Apply min_p, then top_k, then top_p to what is left; dropped logits become -inf.

    A token equal to the last kept token is kept too. Tokens whose weight is nothing next to the
    best token's are dropped first: no noise could make them win.
    """
    weight = jnp.exp(scaled_SV - row_max(scaled_SV)[:, None])
    weight = jnp.where(weight >= inputs.min_p[:, None], weight, 0.0)
    keys = _ordered_bits(scaled_SV)
    top_k = jnp.where(inputs.top_k > 0, inputs.top_k, _INT32_MAX)
    ones = (weight > 0).astype(jnp.float32)
    cut = _bisect(keys, ones, jnp.minimum(top_k.astype(jnp.float32), row_sum(ones)))
    weight = jnp.where(keys >= cut[:, None], weight, 0.0)
    # A float sum may never reach the last 2^-24 of the mass; top_p 1 must keep everything.
    goal = jnp.where(inputs.top_p < 1, inputs.top_p * row_sum(weight), 0.0)
    cut = jnp.where(inputs.top_p < 1, _bisect(keys, weight, goal), jnp.uint32(0))
    return jnp.where((weight > 0) & (keys >= cut[:, None]), scaled_SV, -jnp.inf)


def _ordered_bits(x: jax.Array) -> jax.Array:
    """Unsigned integers in the order of the floats; both zeros map to the same integer."""
    bits = jax.lax.bitcast_convert_type(jnp.where(x == 0, 0.0, x), jnp.uint32)
    sign = jnp.uint32(1 << 31)
    return jnp.where(bits >= sign, ~bits, bits | sign)


def _bisect(keys_SV: jax.Array, weight_SV: jax.Array, goal_S: jax.Array) -> jax.Array:
    """The largest key where the weights from that key up still reach `goal_S`."""

    def bit(i: jax.Array, cut_S: jax.Array) -> jax.Array:
        higher = cut_S | (jnp.uint32(1 << 31) >> i.astype(jnp.uint32))
        reached = row_sum(jnp.where(keys_SV >= higher[:, None], weight_SV, 0.0)) >= goal_S
        return jnp.where(reached, higher, cut_S)

    return jax.lax.fori_loop(0, 32, bit, jnp.zeros(goal_S.shape, jnp.uint32))
