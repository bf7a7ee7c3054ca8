from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engine.policy.sequences.step import ScheduledBatch
from server.engine.programs.inputs.buckets import Bucket, Ladder
from server.engine.programs.inputs.packing import draw_places, pack
from server.engine.programs.inputs.step_input import (
    IN_FLIGHT,
    NO_TARGET,
    POOLED,
    empty_input,
    stack_ranks,
)
from server.link.frames import TokenLogprobs
from tests.engine.builders import make_image
from tests.engine.programs.rows import BLOCK_SIZE, make_row

NUM_KINDS = 2
TABLE_SIZE = 6
SCRATCH_SLOT = 9


def pack_rows(*rows, bucket=None):
    bucket = bucket or Bucket(16, 4, decode_only=False)
    return pack(rows, bucket, NUM_KINDS, TABLE_SIZE, SCRATCH_SLOT)


@dataclass
class Shape:
    """How one row of a random batch looks."""

    num_prompt_tokens: int
    num_computed: int
    num_scheduled: int
    is_sampling: bool
    num_in_flight: int

    @property
    def is_decode(self):
        return self.num_computed >= self.num_prompt_tokens


@st.composite
def decodes(draw):
    num_prompt_tokens = draw(st.integers(1, 9))
    num_computed = draw(st.integers(num_prompt_tokens, 23))
    return Shape(num_prompt_tokens, num_computed, 1, True, draw(st.integers(0, 1)))


@st.composite
def chunks(draw):
    num_prompt_tokens = draw(st.integers(1, 9))
    num_computed = draw(st.integers(0, num_prompt_tokens - 1))
    num_scheduled = draw(st.integers(1, num_prompt_tokens - num_computed))
    is_sampling = num_computed + num_scheduled == num_prompt_tokens
    return Shape(num_prompt_tokens, num_computed, num_scheduled, is_sampling, 0)


@st.composite
def batches(draw):
    """Up to four rows, decodes first, every row with blocks and a slot of its own."""
    shapes = draw(st.lists(st.one_of(decodes(), chunks()), min_size=1, max_size=4))
    shapes.sort(key=lambda shape: not shape.is_decode)
    blocks = draw(st.permutations(range(1, 4 * TABLE_SIZE + 1)))
    slots = draw(st.permutations(range(4)))
    rows = []
    for i, shape in enumerate(shapes):
        num_known = shape.num_computed + shape.num_scheduled - shape.num_in_flight
        tokens = draw(st.lists(st.integers(0, 99), min_size=num_known, max_size=num_known))
        prompt = (tokens + [7] * shape.num_prompt_tokens)[: shape.num_prompt_tokens]
        rows.append(
            make_row(
                prompt,
                shape.num_computed,
                shape.num_scheduled,
                output=tokens[shape.num_prompt_tokens :],
                in_flight=shape.num_in_flight,
                is_sampling=shape.is_sampling,
                slot=slots[i],
                blocks=blocks[i * TABLE_SIZE : (i + 1) * TABLE_SIZE],
            )
        )
    return ScheduledBatch(tuple(rows))


LADDER = Ladder(max_num_seqs=4, max_num_batched_tokens=40, smallest_mixed=8)


def pack_in_bucket(batch):
    return pack(batch.rows, LADDER.choose(batch), NUM_KINDS, TABLE_SIZE, SCRATCH_SLOT)


class TestTokens:
    @given(batch=batches())
    def test_every_row_can_be_read_back(self, batch):
        step = pack_in_bucket(batch)
        for i, row in enumerate(batch.rows):
            own = slice(step.query_start_S1[i], step.query_start_S1[i + 1])
            positions = range(row.num_computed_tokens, row.end)
            known = row.seq.token_ids[row.num_computed_tokens : row.end]
            num_unknown = row.num_scheduled_tokens - len(known)
            assert step.positions_T[own].tolist() == list(positions)
            assert step.token_ids_T[own].tolist() == known + [IN_FLIGHT] * num_unknown
            assert set(step.row_T[own].tolist()) == {i}
            assert step.seq_lens_S[i] == row.end
            for kind, table in enumerate(row.seq.block_tables):
                packed = step.block_tables_KSB[kind, i].tolist()
                assert packed == [*table, *[0] * (TABLE_SIZE - len(table))]

    @given(batch=batches())
    def test_the_rest_is_padding(self, batch):
        bucket, step = LADDER.choose(batch), pack_in_bucket(batch)
        empty = empty_input(bucket, NUM_KINDS, TABLE_SIZE, SCRATCH_SLOT)
        num_rows, num_tokens = len(batch.rows), batch.num_tokens
        for name in ("token_ids_T", "positions_T", "row_T", "target_T"):
            rest = getattr(step, name)[num_tokens:]
            assert rest.tolist() == getattr(empty, name)[num_tokens:].tolist()
        assert set(step.row_T[num_tokens:].tolist()) <= {bucket.num_rows}
        assert not step.seq_lens_S[num_rows:].any()
        assert not step.block_tables_KSB[:, num_rows:].any()
        assert set(step.query_start_S1[num_rows:].tolist()) == {num_tokens}

    @given(batch=batches())
    def test_tokens_write_to_slots_of_their_own_and_padding_to_block_0(self, batch):
        step = pack_in_bucket(batch)
        num_rows, num_tokens = len(step.seq_lens_S), batch.num_tokens
        rows = np.minimum(step.row_T, num_rows - 1)
        for table_SB in step.block_tables_KSB:
            blocks = table_SB[rows, step.positions_T // BLOCK_SIZE]
            blocks = np.where(step.row_T == num_rows, 0, blocks)
            places = blocks * BLOCK_SIZE + step.positions_T % BLOCK_SIZE
            assert len(set(places[:num_tokens].tolist())) == num_tokens
            assert blocks[:num_tokens].all()
            assert not blocks[num_tokens:].any()

    @given(batch=batches())
    def test_decodes_stand_at_the_index_of_their_row(self, batch):
        step = pack_in_bucket(batch)
        num_decodes = sum(row.is_decode for row in batch.rows)
        assert step.num_decodes.tolist() == [num_decodes]
        assert step.row_T[:num_decodes].tolist() == list(range(num_decodes))

    def test_a_token_in_flight_stands_for_what_its_slot_drew_last(self):
        known = make_row([5], 1, 1, output=[6], slot=3)
        unknown = make_row([5], 1, 1, in_flight=1, slot=2)
        step = pack_rows(known, unknown, bucket=Bucket(2, 2, decode_only=True))
        assert step.token_ids_T.tolist() == [6, IN_FLIGHT]
        assert step.sampling.slot.tolist() == [3, 2]

    def test_all_padding_is_what_warm_up_runs(self):
        bucket = Bucket(8, 4, decode_only=False)
        empty, packed = (
            empty_input(bucket, NUM_KINDS, TABLE_SIZE, SCRATCH_SLOT),
            pack_rows(bucket=bucket),
        )
        for name in set(empty._fields) - {"sampling"}:
            np.testing.assert_array_equal(getattr(packed, name), getattr(empty, name))

    def test_a_rows_adapter_slot_is_there_only_where_rows_may_have_adapters(self):
        row = make_row((1, 2, 3), 0, 3)
        row.seq.adapter_slot = 2
        bucket = Bucket(8, 4, decode_only=False)
        sizes = (NUM_KINDS, TABLE_SIZE, SCRATCH_SLOT)
        assert pack([row], bucket, *sizes).adapter_S is None
        packed = pack([row], bucket, *sizes, has_adapters=True)
        assert packed.adapter_S.tolist() == [2, 0, 0, 0]
        assert stack_ranks([packed, packed]).adapter_S.shape == (2, 4)
        assert stack_ranks([pack([row], bucket, *sizes)] * 2).adapter_S is None


class TestPromptLogprobs:
    PROMPT = (10, 11, 12, 13, 14)

    def targets(self, num_computed, num_scheduled, known=(None,), **params):
        row = make_row(self.PROMPT, num_computed, num_scheduled, **params)
        row.seq.prompt_logprobs = list(known)
        return pack_rows(row).target_T.tolist()

    def test_every_position_is_asked_for_the_token_after_it(self):
        targets = self.targets(0, 5, num_prompt_logprobs=0)
        assert targets == [11, 12, 13, 14] + [NO_TARGET] * 12

    def test_a_chunk_is_asked_beyond_its_end(self):
        targets = self.targets(1, 2, is_sampling=False, num_prompt_logprobs=0)
        assert targets == [12, 13] + [NO_TARGET] * 14

    def test_generated_tokens_are_not_asked_for(self):
        """A sequence that comes back from preemption computes prompt and output in one chunk."""
        targets = self.targets(3, 4, output=[15, 16], num_prompt_logprobs=0)
        assert targets == [14] + [NO_TARGET] * 15

    def test_without_the_option_nothing_is_asked(self):
        assert set(self.targets(0, 5)) == {NO_TARGET}

    def test_known_ones_are_not_asked_for_again(self):
        known = [None] + [TokenLogprobs(-1.0, [])] * 4
        assert set(self.targets(0, 5, known, num_prompt_logprobs=0)) == {NO_TARGET}

    def test_targets_of_prompt_logprobs_stand_next_to_their_own_row(self):
        asking = make_row(self.PROMPT, 0, 3, is_sampling=False, num_prompt_logprobs=2)
        step = pack_rows(make_row([5], 1, 1, output=[6]), make_row([7, 8], 0, 2), asking)
        assert step.target_T.tolist() == [NO_TARGET] * 3 + [11, 12, 13] + [NO_TARGET] * 10


class TestPooling:
    PROMPT = (10, 11, 12, 13, 14)

    @pytest.mark.parametrize(
        ("pooling", "expected"),
        [("last", [[], [], [4]]), ("mean", [[0, 1], [2, 3], [4]]), ("cls", [[0], [], []])],
    )
    def test_pooled_tokens_are_marked_at_their_places_in_the_step(self, pooling, expected):
        for start, positions in zip((0, 2, 4), expected, strict=True):
            count = min(2, 5 - start)
            row = make_row(
                self.PROMPT, start, count, is_sampling=False, pooling=pooling, max_tokens=0
            )
            step = pack_rows(make_row([5], 1, 1, output=[6]), row)
            marked = np.flatnonzero(step.target_T == POOLED) - 1 + start
            assert marked.tolist() == positions


class TestSampling:
    def test_a_rows_options_stand_at_its_place(self):
        options = {
            "temperature": 0.5,
            "top_p": 0.25,
            "top_k": 7,
            "min_p": 0.125,
            "presence_penalty": -1.5,
            "frequency_penalty": 1.75,
            "repetition_penalty": 1.25,
        }
        sampling = pack_rows(make_row([5], 0, 1), make_row([5], 0, 1, **options)).sampling
        assert {name: getattr(sampling, name)[1].item() for name in options} == options
        assert sampling.temperature.dtype == np.float32

    def test_noise_is_keyed_by_seed_choice_and_the_drawn_tokens_position(self):
        row = make_row([5, 6, 7], 0, 3, index=4, seed=0xDEADBEEF_00C0FFEE)
        sampling = pack_rows(row).sampling
        assert sampling.seed[0].tolist() == [0x00C0FFEE, 0xDEADBEEF]
        assert sampling.choice[0] == 4
        assert sampling.position[0] == 3

    def test_a_row_that_does_not_sample_is_as_neutral_as_padding(self):
        """An option that no sampling row has must not make the step compute it."""
        row = make_row(
            [5, 6, 7],
            0,
            2,
            is_sampling=False,
            temperature=1.0,
            top_k=3,
            presence_penalty=1.0,
            logit_bias={1: 2.0},
            min_tokens=3,
            num_logprobs=5,
        )
        empty = empty_input(Bucket(16, 4, decode_only=False), NUM_KINDS, TABLE_SIZE, SCRATCH_SLOT)
        for expected, found in zip(empty.sampling, pack_rows(row).sampling, strict=True):
            np.testing.assert_array_equal(found, expected)

    def test_padding_is_greedy_without_options_into_the_scratch_slot(self):
        sampling = pack_rows(make_row([5], 0, 1, slot=2, temperature=1.0, top_p=0.5)).sampling
        assert sampling.slot.tolist() == [2] + [SCRATCH_SLOT] * 3
        assert sampling.is_sampling.tolist() == [True] + [False] * 3
        assert not sampling.temperature[1:].any()
        assert sampling.top_p[1:].tolist() == [1.0] * 3
        assert sampling.repetition_penalty[1:].tolist() == [1.0] * 3

    @pytest.mark.parametrize(("num_generated", "suppressed"), [(0, True), (1, True), (2, False)])
    def test_stop_ids_are_suppressed_for_the_first_min_tokens(self, num_generated, suppressed):
        row = make_row([5], num_generated, 1, output=[6] * num_generated, min_tokens=2)
        assert pack_rows(row).sampling.suppress_stops[0] == suppressed

    @pytest.mark.parametrize(("num_logprobs", "wanted"), [(-1, False), (0, True), (5, True)])
    def test_zero_alternatives_still_ask_for_the_tokens_own(self, num_logprobs, wanted):
        row = make_row([5], 0, 1, num_logprobs=num_logprobs)
        assert pack_rows(row).sampling.wants_logprobs[0] == wanted

    def test_a_bias_is_announced(self):
        rows = make_row([5], 0, 1, logit_bias={3: 0.5}), make_row([5], 0, 1)
        assert pack_rows(*rows).sampling.has_bias.tolist() == [True, False, False, False]


class TestDrafts:
    BUCKET = Bucket(8, 3, decode_only=False, num_drafts=4)

    def pack(self, **params):
        """A decode without drafts, then one with two."""
        plain = make_row([5], 1, 1, output=[6], slot=3, temperature=1.0)
        drafting = make_row([5, 7], 2, 3, output=[8], slot=1, min_tokens=3, seed=9, **params)
        return pack_rows(plain, drafting._replace(draft_ids=(20, 21)), bucket=self.BUCKET)

    def test_drafts_stand_after_the_token_that_is_known(self):
        step = self.pack()
        assert step.token_ids_T[:4].tolist() == [6, 8, 20, 21]
        assert step.positions_T[:4].tolist() == [1, 2, 3, 4]
        assert step.row_T.tolist() == [0, 1, 1, 1, 3, 3, 3, 3]
        assert step.query_start_S1.tolist() == [0, 1, 4, 4]
        assert step.seq_lens_S.tolist() == [2, 5, 0]
        assert step.num_decodes.tolist() == [1]

    def test_every_token_draws_at_its_own_place_with_its_rows_options(self):
        sampling = self.pack().sampling
        assert sampling.position.tolist() == [2, 3, 4, 5, 0, 0, 0, 0]
        assert sampling.slot.tolist() == [3, 1, 1, 1, *[SCRATCH_SLOT] * 4]
        assert sampling.is_sampling.tolist() == [True] * 4 + [False] * 4
        assert sampling.seed[1:4, 0].tolist() == [9, 9, 9]

    def test_an_end_is_withheld_up_to_the_least_number_of_tokens(self):
        assert self.pack().sampling.suppress_stops[1:4].tolist() == [True, True, False]

    def test_a_row_draws_where_its_first_token_stands(self):
        plain = make_row([5], 1, 1, output=[6])
        rows = [make_row([5], 1, 3, output=[6])._replace(draft_ids=(1, 2)), plain]
        assert draw_places(rows, self.BUCKET) == [0, 3]
        assert draw_places(rows, Bucket(4, 4, decode_only=True)) == [0, 1]
        assert draw_places([], self.BUCKET) == []


def test_images_are_marked_where_their_tokens_begin_in_the_step():
    rows = [
        make_row(range(3), 3, 1, output=[5]),
        make_row(range(9), 2, 7, slot=1, images=[make_image(0, 2), make_image(4, 2)]),
        make_row(range(6), 0, 6, slot=2, images=[make_image(1, 2)]),
    ]
    bucket = Bucket(16, 4, decode_only=False)
    step = pack(rows, bucket, NUM_KINDS, TABLE_SIZE, SCRATCH_SLOT, num_images=4)
    # What was computed before has no place in the step.
    assert step.image_start_M.tolist() == [3, 9, 16, 16]
    assert step.image_size_M.tolist() == [2, 2, 0, 0]
    assert pack_rows(*rows).image_start_M is None
