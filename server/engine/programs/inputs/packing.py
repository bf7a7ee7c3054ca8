"""Packs the scheduled rows of one data rank into the arrays of a step.

Array by array, not row by row: this runs on the host for every token, while the device waits.
NumPy only. Knows neither why a row was scheduled nor what the step computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

import numpy as np

from server.engine.policy.sequences.pooling import pooled_positions
from server.engine.policy.sequences.step import ScheduledRow
from server.engine.programs.inputs.buckets import Bucket
from server.engine.programs.inputs.state_slots import pack_states
from server.engine.programs.inputs.step_input import (
    IN_FLIGHT,
    POOLED,
    ROW_OPTIONS,
    DrawInput,
    SamplingInput,
    StepInput,
    empty_draw,
    empty_input,
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
    starts = _starts(rows)
    _pack_tokens(step, rows, starts)
    _pack_tables(step, rows)
    _pack_targets(step, rows, starts)
    if step.adapter_S is not None:
        step.adapter_S[: len(rows)] = [row.seq.adapter_slot for row in rows]
    if step.states_4S is not None:
        pack_states(step.states_4S, rows)
    if step.image_start_M is not None:
        _pack_images(step, rows, starts)
    places = draw_places(rows, bucket)
    _pack_sampling(step.sampling, dict(_draws_at_once(rows, places)))
    for i, row in zip(places, rows, strict=True):
        if row.is_constrained:  # Its newest token may be in flight.
            step.sampling.slot[i] = row.seq.slot
    return step


def draw_places(rows: Sequence[ScheduledRow], bucket: Bucket) -> list[int]:
    """Where each row of one rank first draws: its own place, or its first token's."""
    return _starts(rows) if bucket.num_drafts else list(range(len(rows)))


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


def _starts(rows: Sequence[ScheduledRow]) -> list[int]:
    """The place of each row's first token in the step."""
    return list(accumulate((row.num_scheduled_tokens for row in rows), initial=0))[:-1]


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
            yield first + i, row._replace(num_scheduled_tokens=1 + i, draft_ids=())


def _pack_tokens(step: StepInput, rows: Sequence[ScheduledRow], starts: Sequence[int]) -> None:
    num_rows = len(rows)
    counts = np.array([row.num_scheduled_tokens for row in rows], np.int32)
    firsts = np.array([row.num_computed_tokens for row in rows], np.int32)
    ids = [token_id for row in rows for token_id in _token_ids(row)]
    end = len(ids)
    step.token_ids_T[:end] = ids
    step.row_T[:end] = np.repeat(np.arange(num_rows), counts)
    step.positions_T[:end] = np.arange(end) + np.repeat(firsts - starts, counts)
    step.seq_lens_S[:num_rows] = firsts + counts
    step.query_start_S1[:num_rows] = starts
    step.query_start_S1[num_rows:] = end
    step.num_decodes[0] = sum(row.is_decode and not row.draft_ids for row in rows)


def _token_ids(row: ScheduledRow) -> list[int]:
    """The scheduled tokens of a row; IN_FLIGHT for one that is not known yet."""
    first, num_drafts = row.num_computed_tokens, len(row.draft_ids)
    known = row.seq.token_ids[first : row.end - num_drafts]
    num_in_flight = row.num_scheduled_tokens - num_drafts - len(known)
    return [*known, *row.draft_ids, *[IN_FLIGHT] * num_in_flight]


def _pack_tables(step: StepInput, rows: Sequence[ScheduledRow]) -> None:
    for i, row in enumerate(rows):
        for kind, table in enumerate(row.seq.block_tables):
            step.block_tables_KSB[kind, i, : len(table)] = table


def _pack_targets(step: StepInput, rows: Sequence[ScheduledRow], starts: Sequence[int]) -> None:
    for start, row in zip(starts, rows, strict=True):
        seq, first = row.seq, row.num_computed_tokens
        if seq.pooling is not None:
            pooled = pooled_positions(row)
            offset = start - first
            step.target_T[offset + pooled.start : offset + pooled.stop] = POOLED
        elif seq.needs_whole_prompt:
            targets = seq.token_ids[first + 1 : min(row.end + 1, seq.num_prompt_tokens)]
            step.target_T[start : start + len(targets)] = targets


def _pack_images(step: StepInput, rows: Sequence[ScheduledRow], starts: Sequence[int]) -> None:
    places = [
        (start + image.start - row.num_computed_tokens, image.num_tokens)
        for start, row in zip(starts, rows, strict=True)
        for image in row.images
    ]
    if places:
        columns = np.transpose(places)
        step.image_start_M[: len(places)], step.image_size_M[: len(places)] = columns


def _pack_sampling(sampling: SamplingInput, rows: Mapping[int, ScheduledRow]) -> None:
    """`rows` is by place."""
    if not rows:
        return
    sampled, places = rows.values(), np.array(list(rows))
    seqs = [row.seq for row in sampled]
    params = [seq.params for seq in seqs]
    for name in ROW_OPTIONS:
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
