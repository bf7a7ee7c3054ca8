"""The arrays of one compiled step, and of the draw that may follow it: names, shapes, padding.

NumPy only. Knows neither what rows are packed into them nor what the step computes.
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any, NamedTuple

import numpy as np

from server.engine.programs.inputs.buckets import Bucket
from server.engine.programs.inputs.state_slots import empty_states
from server.link.sampling import OPTIONS

# Token id that stands for "the one this slot drew last": the host does not know it yet.
IN_FLIGHT = -1
# Tokens per word of `allowed_SW`, and a word of tokens that are all allowed.
WORD = 32
ALL_TOKENS = np.uint32(0xFFFFFFFF)
# No next prompt token whose log probability is wanted.
NO_TARGET = -1
# A token whose hidden state counts in its row's embedding; such a row wants no log probabilities.
POOLED = -2

# NumPy on the way in, traced inside the step.
type Array = Any

# The options that a step has an array of, in the table's order.
ROW_OPTIONS = {option.name: option.rule.row for option in OPTIONS if option.rule.row is not None}


def _sampling_fields() -> Any:
    """A base class with a field for each option. No type checker can read fields from a table."""
    others = ("has_bias", "suppress_stops", "wants_logprobs", "seed", "choice", "position")
    return namedtuple("_SamplingFields", ("slot", "is_sampling", *ROW_OPTIONS, *others))


_SamplingFields: Any = _sampling_fields()


class SamplingInput(_SamplingFields):
    """How each token is drawn; one entry per row, or per token of a verify bucket.

    `temperature` 0 is greedy.

    There is an array for each option that has a `row` in the table of `server.link.sampling`.
    `slot` is the row of the device's per-sequence state, the last one for rows that do not sample.
    A row that a grammar limits has its slot, and does not sample: its token is chosen afterwards.
    `position` is where the drawn token will stand in its sequence; with `seed` (two words) and
    `choice` it keys the noise. `suppress_stops`: stop ids are not to be drawn yet.
    """

    __slots__ = ()


class DrawInput(NamedTuple):
    """The host-side input of a draw, which follows a step for rows that a grammar limits.

    `row_S` are their rows in the step. `allowed_SW` has a bit per token id, the lowest of a word
    first. Padding rows are row 0, and allow everything.
    """

    row_S: Array
    sampling: SamplingInput
    allowed_SW: Array


class StepInput(NamedTuple):
    """One step's host-side input. T and S are the bucket's sizes, K the kinds of layers, B the
    blocks of a table. Where there are several data ranks, every array has an axis of them in front.

    In a table, 0 is a block that is not there yet or has been given back.
    Padding tokens have row S; padding rows have no tokens. `target_T` is the next prompt token
    whose log probability is wanted, or POOLED, or NO_TARGET. `adapter_S` has the number of each
    row's adapter slot, from 1, 0 for none; it is None on a server without slots. `image_start_M` is
    the place in the step of each image's first token, T for no image, and `image_size_M` how many
    tokens it has; both are None without room for any. `states_4S` has each row's slots of recurrent
    states, as `StateSlots` orders them, the last one for padding; None for a model whose layers
    have none.
    """

    token_ids_T: Array
    positions_T: Array
    row_T: Array
    target_T: Array
    block_tables_KSB: Array
    seq_lens_S: Array
    query_start_S1: Array
    num_decodes: Array
    sampling: SamplingInput
    adapter_S: Array = None
    image_start_M: Array = None
    states_4S: Array = None
    image_size_M: Array = None


def stack_ranks(inputs: list[StepInput]) -> StepInput:
    """One input of all ranks' inputs, in the ranks' order; of one rank alone, as it is."""
    if len(inputs) == 1:
        return inputs[0]
    sampling = _stack_sampling([each.sampling for each in inputs])
    stacked = inputs[0]._replace(sampling=sampling)
    others: dict[str, Any] = {
        name: np.stack([getattr(each, name) for each in inputs])
        for name in StepInput._fields
        if name != "sampling" and getattr(stacked, name) is not None
    }
    return stacked._replace(**others)


def _stack_sampling(inputs: list[SamplingInput]) -> SamplingInput:
    return SamplingInput._make(map(np.stack, zip(*inputs, strict=True)))


def empty_input(
    bucket: Bucket,
    num_kinds: int,
    table_size: int,
    scratch_slot: int,
    *,
    has_adapters: bool = False,
    num_states: int = 0,
    num_images: int = 0,
) -> StepInput:
    """All padding, for one rank: what warm-up runs, and what `pack` fills."""
    t, s = bucket.num_tokens, bucket.num_rows

    def ints(*shape: int, fill: int = 0) -> np.ndarray:
        return np.full(shape, fill, np.int32)

    return StepInput(
        token_ids_T=ints(t),
        positions_T=ints(t),
        row_T=ints(t, fill=s),
        target_T=ints(t, fill=NO_TARGET),
        block_tables_KSB=ints(num_kinds, s, table_size),
        seq_lens_S=ints(s),
        query_start_S1=ints(s + 1),
        num_decodes=ints(1),
        sampling=_empty_sampling(bucket.num_draws, scratch_slot),
        adapter_S=ints(s) if has_adapters else None,
        image_start_M=ints(num_images, fill=t) if num_images else None,
        states_4S=empty_states(s, num_states) if num_states else None,
        image_size_M=ints(num_images) if num_images else None,
    )


def empty_draw(num_rows: int, num_words: int, scratch_slot: int) -> DrawInput:
    """All padding, for one rank."""
    return DrawInput(
        row_S=np.zeros(num_rows, np.int32),
        sampling=_empty_sampling(num_rows, scratch_slot),
        allowed_SW=np.full((num_rows, num_words), ALL_TOKENS, np.uint32),
    )


def stack_draws(inputs: list[DrawInput]) -> DrawInput:
    """One input of all ranks' inputs, as `stack_ranks` makes it."""
    if len(inputs) == 1:
        return inputs[0]
    return DrawInput(
        row_S=np.stack([each.row_S for each in inputs]),
        sampling=_stack_sampling([each.sampling for each in inputs]),
        allowed_SW=np.stack([each.allowed_SW for each in inputs]),
    )


def _empty_sampling(num_rows: int, scratch_slot: int) -> SamplingInput:
    def falses() -> np.ndarray:
        return np.zeros(num_rows, np.bool_)

    return SamplingInput(
        slot=np.full(num_rows, scratch_slot, np.int32),
        is_sampling=falses(),
        **{name: np.full(num_rows, row.padding, row.dtype) for name, row in ROW_OPTIONS.items()},
        has_bias=falses(),
        suppress_stops=falses(),
        wants_logprobs=falses(),
        seed=np.zeros((num_rows, 2), np.uint32),
        choice=np.zeros(num_rows, np.uint32),
        position=np.zeros(num_rows, np.uint32),
    )
