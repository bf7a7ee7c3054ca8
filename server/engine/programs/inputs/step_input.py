"""Packs a scheduled batch into the arrays of one compiled step.

NumPy only: from rows to padded arrays, and the ladder of sizes they are padded to. Knows neither
why a row was scheduled nor what the step computes.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from server.engine.policy.sequences.pooling import pooled_positions
from server.engine.policy.sequences.step import ScheduledRow
from server.engine.programs.inputs.buckets import Bucket
from server.engine.programs.inputs.state_slots import empty_states, pack_states
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
_ROWS = {option.name: option.rule.row for option in OPTIONS if option.rule.row is not None}


def _sampling_fields() -> Any:
    """A base class with a field for each option. No type checker can read fields from a table."""
    others = ("has_bias", "suppress_stops", "wants_logprobs", "seed", "choice", "position")
    return namedtuple("_SamplingFields", ("slot", "is_sampling", *_ROWS, *others))


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
        **{name: np.full(num_rows, row.padding, row.dtype) for name, row in _ROWS.items()},
        has_bias=falses(),
        suppress_stops=falses(),
        wants_logprobs=falses(),
        seed=np.zeros((num_rows, 2), np.uint32),
        choice=np.zeros(num_rows, np.uint32),
        position=np.zeros(num_rows, np.uint32),
    )


def pack(
    rows: Sequence[ScheduledRow],
    bucket: Bucket,
    num_kinds: int,
    table_size: int,
    scratch_slot: int,
    *,
    has_adapters: bool = False,
    num_states: int = 0,
    num_images: int = 0,
) -> StepInput:
    """The step input of one rank's rows, which fit `bucket`."""
    step = empty_input(
        bucket,
        num_kinds,
        table_size,
        scratch_slot,
        has_adapters=has_adapters,
        num_states=num_states,
        num_images=num_images,
    )
    images: list[tuple[int, int]] = []
    start = 0
    for i, row in enumerate(rows):
        end = start + row.num_scheduled_tokens
        _pack_tokens(step, i, row, slice(start, end))
        step.query_start_S1[i] = start
        first = start - row.num_computed_tokens
        images += [(first + each.start, each.num_tokens) for each in row.images]
        start = end
    step.query_start_S1[len(rows) :] = start
    step.num_decodes[0] = sum(row.is_decode and not row.draft_ids for row in rows)
    if step.adapter_S is not None:
        step.adapter_S[: len(rows)] = [row.seq.adapter_slot for row in rows]
    if step.states_4S is not None:
        pack_states(step.states_4S, rows)
    if step.image_start_M is not None and images:
        step.image_start_M[: len(images)], step.image_size_M[: len(images)] = zip(
            *images, strict=True
        )
    places = draw_places(rows, bucket)
    _pack_sampling(step.sampling, dict(_draws_at_once(rows, places)))
    for i, row in zip(places, rows, strict=True):
        if row.is_constrained:  # Its newest token may be in flight.
            step.sampling.slot[i] = row.seq.slot
    return step


def draw_places(rows: Sequence[ScheduledRow], bucket: Bucket) -> list[int]:
    """Where each row of one rank first draws: its own place, or its first token's."""
    if not bucket.num_drafts:
        return list(range(len(rows)))
    return list(accumulate((row.num_scheduled_tokens for row in rows), initial=0))[:-1]


def pack_draw(
    rows: Mapping[int, ScheduledRow], num_rows: int, num_words: int, scratch_slot: int
) -> DrawInput:
    """The draw for some of one rank's rows, before it is known which tokens are allowed.

    `rows` is by the place where it draws in the step.
    """
    draw = empty_draw(num_rows, num_words, scratch_slot)
    draw.row_S[: len(rows)] = list(rows)
    _pack_sampling(draw.sampling, dict(enumerate(rows.values())))
    # The matcher knows better when an end token must wait, and when it must not.
    draw.sampling.suppress_stops[:] = False
    return draw


def _draws_at_once(
    rows: Sequence[ScheduledRow], places: Sequence[int]
) -> Iterator[tuple[int, ScheduledRow]]:
    """Every draw of the step by its place. A row with drafts draws as if it ended at each token.

    These all write the slot's last token. The host knows the right one before it is needed.
    """
    for first, row in zip(places, rows, strict=True):
        if not row.is_sampling or row.is_constrained:
            continue
        yield first + len(row.draft_ids), row
        for i in range(len(row.draft_ids)):
            yield first + i, replace(row, num_scheduled_tokens=1 + i, draft_ids=())


def _pack_tokens(step: StepInput, i: int, row: ScheduledRow, where: slice) -> None:
    seq, first, end = row.seq, row.num_computed_tokens, row.end
    known = [*seq.token_ids[first : end - len(row.draft_ids)], *row.draft_ids]
    step.token_ids_T[where] = known + [IN_FLIGHT] * (end - first - len(known))
    step.positions_T[where] = np.arange(first, end)
    step.row_T[where] = i
    for kind, table in enumerate(seq.block_tables):
        step.block_tables_KSB[kind, i, : len(table)] = table
    step.seq_lens_S[i] = end
    if seq.pooling is not None:
        pooled = pooled_positions(row)
        offset = where.start - first
        step.target_T[offset + pooled.start : offset + pooled.stop] = POOLED
    elif seq.needs_whole_prompt:
        targets = seq.token_ids[first + 1 : min(end + 1, seq.num_prompt_tokens)]
        step.target_T[where.start : where.start + len(targets)] = targets


def _pack_sampling(sampling: SamplingInput, rows: Mapping[int, ScheduledRow]) -> None:
    """Array by array, which costs less than row by row: the host packs while the device waits.

    `rows` is by place.
    """
    if not rows:
        return
    sampled, places = rows.values(), np.array(list(rows))
    seqs = [row.seq for row in sampled]
    params = [seq.params for seq in seqs]
    for name in _ROWS:
        getattr(sampling, name)[places] = [getattr(each, name) for each in params]
    sampling.slot[places] = [seq.slot for seq in seqs]
    sampling.is_sampling[places] = True
    sampling.has_bias[places] = [bool(each.logit_bias) for each in params]
    sampling.suppress_stops[places] = [_suppresses_stops(row) for row in sampled]
    sampling.wants_logprobs[places] = [each.num_logprobs >= 0 for each in params]
    sampling.seed[places] = [(each.seed & 0xFFFFFFFF, each.seed >> 32) for each in params]
    sampling.choice[places] = [seq.index for seq in seqs]
    sampling.position[places] = [row.end for row in sampled]


def _suppresses_stops(row: ScheduledRow) -> bool:
    return row.end - row.seq.num_prompt_tokens < row.seq.params.min_tokens
