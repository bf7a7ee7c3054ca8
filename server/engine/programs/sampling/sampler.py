"""Draws one token per row from logits that are split over shards by vocabulary, without a gather.

Every option is per row. A branch that no row of the step needs is not run. This module has the
per-slot state, penalties, biases, log probabilities and their order; `filters` chooses the token.
It runs inside the step's `shard_map` and knows no model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from models.decoder.parallel import any_rank
from models.sharding import DATA, TENSOR
from server.engine.programs.inputs.slot_input import SlotInput, SlotSizes
from server.engine.programs.inputs.step_input import WORD, DrawInput, SamplingInput
from server.engine.programs.sampling.filters import choose_tokens
from server.engine.programs.sampling.sharded_vocab import (
    first_id,
    local_columns,
    row_argmax,
    row_max,
    row_sum,
    row_top,
)
from server.link.sampling import MAX_LOGPROBS

# An array, its shape or its PartitionSpec, always in the same tree.
type Leaf = Any


class SamplerState(NamedTuple):
    """Per-slot state on the device. Rows that do not sample write to the last slot.

    Here V is the vocabulary of one shard. `output_counts` and `prompt_mask` are valid only for
    slots whose sequence has penalties. `bias_*` and `stop_ids` hold global token ids; -1 is unused.
    """

    last_tokens_N: Leaf
    output_counts_NV: Leaf
    prompt_mask_NV: Leaf
    bias_ids_NM: Leaf
    bias_values_NM: Leaf
    stop_ids_NM: Leaf


def abstract_state(
    num_slots: int, vocab: int, sizes: SlotSizes, num_ranks: int = 1
) -> SamplerState:
    """Shapes and dtypes of the state, over all shards.

    Each data rank has `num_slots` slots and one more, which takes the writes that are discarded.
    """

    def array(*shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((num_ranks * (num_slots + 1), *shape), dtype)

    return SamplerState(
        last_tokens_N=array(),
        output_counts_NV=array(vocab),
        prompt_mask_NV=array(vocab, dtype=jnp.bool_),
        bias_ids_NM=array(sizes.max_biases),
        bias_values_NM=array(sizes.max_biases, dtype=jnp.float32),
        stop_ids_NM=array(sizes.max_stop_ids),
    )


def state_specs() -> SamplerState:
    """The split of the state: slots over data ranks, per-token arrays over the vocabulary."""
    by_slot, by_token = PartitionSpec(DATA), PartitionSpec(DATA, TENSOR)
    return SamplerState(by_slot, by_token, by_token, by_slot, by_slot, by_slot)


class Logprobs(NamedTuple):
    """Natural-log probabilities per row, of one token and of the best: [R], [R, 20], [R, 20]."""

    chosen: jax.Array
    top_ids: jax.Array
    top: jax.Array


class Drawn(NamedTuple):
    """The result per row: its token, whether its logits were finite, its log probabilities."""

    token_S: jax.Array
    is_finite_S: jax.Array
    logprobs: Logprobs | None


def draw(
    logits_SV: jax.Array, state: SamplerState, inputs: DrawInput
) -> tuple[Drawn, SamplerState]:
    """Draw a token for every row that samples, of the tokens that its grammar allows.

    Log probabilities are those of the model, as if every token were allowed.
    """
    return sample(logits_SV, state, inputs.sampling, inputs.allowed_SW)


def sample(
    logits_SV: jax.Array,
    state: SamplerState,
    inputs: SamplingInput,
    allowed_SW: jax.Array | None = None,
) -> tuple[Drawn, SamplerState]:
    """Draw a token for every row and store it in the state. `logits_SV` is this shard's part."""
    logprobs_of = _gate(
        any_rank(inputs.wants_logprobs), lambda t: token_logprobs(logits_SV, t), _no_logprobs
    )
    adjusted = _adjust(_limit(logits_SV, allowed_SW), state, inputs)
    greedy_S = row_argmax(adjusted)
    token_S = jax.lax.cond(
        any_rank(inputs.temperature > 0),
        lambda: jnp.where(inputs.temperature > 0, choose_tokens(adjusted, inputs), greedy_S),
        lambda: greedy_S,
    )
    drawn = Drawn(token_S, _is_finite(logits_SV), logprobs_of(token_S))
    return drawn, _note(state, inputs, token_S, logits_SV.shape[1])


def set_slot(state: SamplerState, inputs: SlotInput) -> SamplerState:
    """Set one rank's slot for a new sequence: its token counts, biases and stop ids."""
    num_slots, num_tokens = state.output_counts_NV.shape
    # The other ranks set their last slot, which no sequence uses.
    slot = jnp.where(inputs.rank == jax.lax.axis_index(DATA), inputs.slot, num_slots - 1)
    counts = jnp.zeros(num_tokens, state.output_counts_NV.dtype)
    seen = jnp.zeros(num_tokens, jnp.bool_)
    output = local_columns(inputs.output_ids, num_tokens)
    prompt = local_columns(inputs.prompt_ids, num_tokens)
    return state._replace(
        output_counts_NV=state.output_counts_NV.at[slot].set(counts.at[output].add(1, mode="drop")),
        prompt_mask_NV=state.prompt_mask_NV.at[slot].set(seen.at[prompt].set(True, mode="drop")),
        bias_ids_NM=state.bias_ids_NM.at[slot].set(inputs.bias_ids),
        bias_values_NM=state.bias_values_NM.at[slot].set(inputs.bias_values),
        stop_ids_NM=state.stop_ids_NM.at[slot].set(inputs.stop_ids),
    )


def token_logprobs(logits_RV: jax.Array, token_R: jax.Array) -> Logprobs:
    """Log probabilities under the raw logits, of `token_R` and of the MAX_LOGPROBS best tokens."""
    num_tokens = logits_RV.shape[1]
    maximum = row_max(logits_RV)
    normalizer = maximum + jnp.log(row_sum(jnp.exp(logits_RV - maximum[:, None])))
    own = jnp.arange(num_tokens) == local_columns(token_R, num_tokens)[:, None]
    chosen = row_sum(jnp.where(own, logits_RV, 0.0))
    top, ids = row_top(logits_RV, MAX_LOGPROBS)
    return Logprobs(chosen - normalizer, ids, top - normalizer[:, None])


def _no_logprobs(token_R: jax.Array) -> Logprobs:
    rows = token_R.shape[0]
    none = jnp.zeros((rows, MAX_LOGPROBS), jnp.float32)
    return Logprobs(jnp.zeros(rows, jnp.float32), none.astype(jnp.int32), none)


def _gate[Out](
    wanted: jax.Array, run: Callable[[jax.Array], Out], skip: Callable[[jax.Array], Out]
) -> Callable[[jax.Array], Out]:
    return lambda operand: jax.lax.cond(wanted, run, skip, operand)


def _limit(logits_SV: jax.Array, allowed_SW: jax.Array | None) -> jax.Array:
    """Forbid tokens whose bit is not set; None allows all."""
    if allowed_SW is None:
        return logits_SV
    num_rows, num_tokens = logits_SV.shape
    first = first_id(num_tokens)
    if num_tokens % WORD == 0:  # Then a shard has words of its own.
        allowed_SW = jax.lax.dynamic_slice_in_dim(allowed_SW, first // WORD, num_tokens // WORD, 1)
        first = jnp.zeros_like(first)
    bits = (allowed_SW[:, :, None] >> jnp.arange(WORD, dtype=jnp.uint32)) & 1
    is_allowed = jax.lax.dynamic_slice_in_dim(bits.reshape(num_rows, -1), first, num_tokens, 1)
    return jnp.where(is_allowed > 0, logits_SV, -jnp.inf)


def _adjust(logits_SV: jax.Array, state: SamplerState, inputs: SamplingInput) -> jax.Array:
    """Apply penalties, then biases; then forbid stop ids before the minimum length."""
    has_penalty = (
        (inputs.presence_penalty != 0)
        | (inputs.frequency_penalty != 0)
        | (inputs.repetition_penalty != 1)
    )
    steps: tuple[tuple[jax.Array, Callable[[jax.Array], jax.Array]], ...] = (
        (has_penalty, lambda x: _penalize(x, state, inputs)),
        (inputs.has_bias, lambda x: _bias(x, state, inputs)),
        (inputs.suppress_stops, lambda x: _suppress(x, state, inputs)),
    )
    for wanted, step in steps:
        logits_SV = jax.lax.cond(any_rank(wanted), step, lambda x: x, logits_SV)
    return logits_SV


def _penalize(logits_SV: jax.Array, state: SamplerState, inputs: SamplingInput) -> jax.Array:
    """Repetition as in CTRL (Keskar et al., 2019) over prompt and output; the others as OpenAI."""
    counts = state.output_counts_NV[inputs.slot].astype(jnp.float32)
    seen = state.prompt_mask_NV[inputs.slot] | (counts > 0)
    repetition = jnp.where(seen, inputs.repetition_penalty[:, None], 1.0)
    logits_SV = jnp.where(logits_SV > 0, logits_SV / repetition, logits_SV * repetition)
    presence = jnp.where(counts > 0, inputs.presence_penalty[:, None], 0.0)
    return logits_SV - presence - counts * inputs.frequency_penalty[:, None]


def _bias(logits_SV: jax.Array, state: SamplerState, inputs: SamplingInput) -> jax.Array:
    ids = state.bias_ids_NM[inputs.slot]
    values = jnp.where(inputs.has_bias[:, None], state.bias_values_NM[inputs.slot], 0.0)
    rows = jnp.arange(ids.shape[0])[:, None]
    return logits_SV.at[rows, local_columns(ids, logits_SV.shape[1])].add(values, mode="drop")


def _suppress(logits_SV: jax.Array, state: SamplerState, inputs: SamplingInput) -> jax.Array:
    ids = jnp.where(inputs.suppress_stops[:, None], state.stop_ids_NM[inputs.slot], -1)
    rows = jnp.arange(ids.shape[0])[:, None]
    return logits_SV.at[rows, local_columns(ids, logits_SV.shape[1])].set(-jnp.inf, mode="drop")


def _is_finite(logits_SV: jax.Array) -> jax.Array:
    """False for rows where a logit is NaN or +inf, or where no logit is finite."""
    # Not only by the maximum: XLA's maximum on CPU ignores NaN.
    is_broken = ~(logits_SV < jnp.inf)
    return (row_sum(is_broken.astype(jnp.int32)) == 0) & (row_max(logits_SV) > -jnp.inf)


def _note(
    state: SamplerState, inputs: SamplingInput, token_S: jax.Array, num_tokens: int
) -> SamplerState:
    """Store the drawn tokens as the next step's input, and in the counts."""
    counts = state.output_counts_NV
    # The last slot takes the writes of rows that do not sample.
    slot_S = jnp.where(inputs.is_sampling, inputs.slot, counts.shape[0] - 1)
    one = inputs.is_sampling.astype(counts.dtype)
    column_S = local_columns(token_S, num_tokens)
    return state._replace(
        last_tokens_N=state.last_tokens_N.at[slot_S].set(token_S),
        output_counts_NV=counts.at[slot_S, column_S].add(one, mode="drop"),
    )
