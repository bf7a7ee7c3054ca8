"""Packs a scheduled batch into the arrays of one compiled step.

NumPy only: from rows to padded arrays, and the ladder of sizes they are padded to. Knows neither
why a row was scheduled nor what the step computes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from server.engine.policy.step import ScheduledRow
from server.engine.programs.buckets import Bucket

# Token id that stands for "the one this slot drew last": the host does not know it yet.
IN_FLIGHT = -1
# No next prompt token whose log probability is wanted.
NO_TARGET = -1

# NumPy on the way in, traced inside the step.
type Array = Any


class SamplingInput(NamedTuple):
    """How each row draws its token; one entry a row. `temperature` 0 is greedy.

    `slot` is the row of the device's per-sequence state, the last one for rows that do not sample.
    `position` is where the drawn token will stand in its sequence; with `seed` (two words) and
    `choice` it keys the noise. `suppress_stops`: stop ids are not to be drawn yet.
    """

    slot: Array
    is_sampling: Array
    temperature: Array
    top_p: Array
    top_k: Array
    min_p: Array
    presence_penalty: Array
    frequency_penalty: Array
    repetition_penalty: Array
    has_bias: Array
    suppress_stops: Array
    wants_logprobs: Array
    seed: Array
    choice: Array
    position: Array


class StepInput(NamedTuple):
    """One step's host-side input. T and S are the bucket's sizes, K the kinds of layers, B the
    blocks of a table. Where there are several data ranks, every array has an axis of them in front.

    In a table, 0 is a block that is not there yet or has been given back.
    Padding tokens have row S; padding rows have no tokens. `target_T` is the next prompt token
    whose log probability is wanted, or NO_TARGET.
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


def stack_ranks(inputs: list[StepInput]) -> StepInput:
    """One input of all ranks' inputs, in the ranks' order; of one rank alone, as it is."""
    if len(inputs) == 1:
        return inputs[0]
    sampling = SamplingInput._make(
        map(np.stack, zip(*(each.sampling for each in inputs), strict=True))
    )
    others = map(np.stack, zip(*(each[:-1] for each in inputs), strict=True))
    return StepInput._make((*others, sampling))


def empty_input(bucket: Bucket, num_kinds: int, table_size: int, scratch_slot: int) -> StepInput:
    """All padding, for one rank: what warm-up runs, and what `pack` fills."""
    t, s = bucket.num_tokens, bucket.num_rows

    def ints(*shape: int, fill: int = 0) -> np.ndarray:
        return np.full(shape, fill, np.int32)

    def floats(fill: float) -> np.ndarray:
        return np.full(s, fill, np.float32)

    sampling = SamplingInput(
        slot=ints(s, fill=scratch_slot),
        is_sampling=np.zeros(s, np.bool_),
        temperature=floats(0.0),
        top_p=floats(1.0),
        top_k=ints(s),
        min_p=floats(0.0),
        presence_penalty=floats(0.0),
        frequency_penalty=floats(0.0),
        repetition_penalty=floats(1.0),
        has_bias=np.zeros(s, np.bool_),
        suppress_stops=np.zeros(s, np.bool_),
        wants_logprobs=np.zeros(s, np.bool_),
        seed=np.zeros((s, 2), np.uint32),
        choice=np.zeros(s, np.uint32),
        position=np.zeros(s, np.uint32),
    )
    return StepInput(
        token_ids_T=ints(t),
        positions_T=ints(t),
        row_T=ints(t, fill=s),
        target_T=ints(t, fill=NO_TARGET),
        block_tables_KSB=ints(num_kinds, s, table_size),
        seq_lens_S=ints(s),
        query_start_S1=ints(s + 1),
        num_decodes=ints(1),
        sampling=sampling,
    )


def pack(
    rows: list[ScheduledRow],
    bucket: Bucket,
    num_kinds: int,
    table_size: int,
    scratch_slot: int,
) -> StepInput:
    """The step input of one rank's rows, which fit `bucket`."""
    step = empty_input(bucket, num_kinds, table_size, scratch_slot)
    start = 0
    for i, row in enumerate(rows):
        end = start + row.num_scheduled_tokens
        _pack_tokens(step, i, row, slice(start, end))
        _pack_row(step.sampling, i, row, scratch_slot)
        step.query_start_S1[i] = start
        start = end
    step.query_start_S1[len(rows) :] = start
    step.num_decodes[0] = sum(row.is_decode for row in rows)
    return step


def _pack_tokens(step: StepInput, i: int, row: ScheduledRow, where: slice) -> None:
    seq, first, end = row.seq, row.num_computed_tokens, row.end
    known = seq.token_ids[first:end]
    step.token_ids_T[where] = known + [IN_FLIGHT] * (end - first - len(known))
    step.positions_T[where] = np.arange(first, end)
    step.row_T[where] = i
    for kind, table in enumerate(seq.block_tables):
        step.block_tables_KSB[kind, i, : len(table)] = table
    step.seq_lens_S[i] = end
    if seq.needs_whole_prompt:
        targets = seq.token_ids[first + 1 : min(end + 1, seq.num_prompt_tokens)]
        step.target_T[where.start : where.start + len(targets)] = targets


def _pack_row(sampling: SamplingInput, i: int, row: ScheduledRow, scratch_slot: int) -> None:
    if not row.is_sampling:
        return
    seq, params = row.seq, row.seq.params
    sampling.slot[i] = seq.slot
    sampling.is_sampling[i] = True
    sampling.temperature[i] = params.temperature
    sampling.top_p[i] = params.top_p
    sampling.top_k[i] = params.top_k
    sampling.min_p[i] = params.min_p
    sampling.presence_penalty[i] = params.presence_penalty
    sampling.frequency_penalty[i] = params.frequency_penalty
    sampling.repetition_penalty[i] = params.repetition_penalty
    sampling.has_bias[i] = bool(params.logit_bias)
    sampling.suppress_stops[i] = row.end - seq.num_prompt_tokens < params.min_tokens
    sampling.wants_logprobs[i] = params.num_logprobs >= 0
    sampling.seed[i] = (params.seed & 0xFFFFFFFF, params.seed >> 32)
    sampling.choice[i] = seq.index
    sampling.position[i] = row.end
