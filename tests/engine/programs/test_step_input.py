from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engine.policy.step import ScheduledBatch, ScheduledRow
from server.engine.programs.buckets import Bucket, Ladder
from server.engine.programs.slot_input import SlotSizes, empty_slot, needs_slot_state, pack_slot
from server.engine.programs.step_input import IN_FLIGHT, NO_TARGET, empty_input, pack
from server.link.frames import TokenLogprobs
from tests.engine.builders import make_sequence

BLOCK_SIZE = 4
NUM_KINDS = 2
TABLE_SIZE = 6
SCRATCH_SLOT = 9
SLOT_SIZES = SlotSizes(max_model_len=8, max_biases=3, max_stop_ids=2)


def make_row(
    prompt,
    num_computed,
    num_scheduled,
    *,
    output=(),
    in_flight=0,
    slot=0,
    blocks=(1, 2, 3, 4, 5, 6),
    is_sampling=True,
    **params,
):
    """A row as the scheduler makes it: `output` is known to the host, `in_flight` tokens are not.

    The sequence has as many of `blocks` as the row's end needs; in layers of the second kind it has
    given back those before the row's first.
    """
    seq = make_sequence(prompt, **params)
    seq.token_ids += output
    seq.num_in_flight_tokens = in_flight
    seq.slot = slot
    table = list(blocks)[: -(-(num_computed + num_scheduled) // BLOCK_SIZE)]
    num_returned = num_computed // BLOCK_SIZE
    seq.block_tables = (table, [0] * num_returned + table[num_returned:])
    return ScheduledRow(seq, num_computed, num_scheduled, is_sampling, False)


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


class TestLadder:
    def test_sizes_are_powers_of_two_up_to_the_limits(self):
        ladder = Ladder(max_num_seqs=6, max_num_batched_tokens=100, smallest_mixed=16)
        decode = [(2, 2, True), (4, 4, True), (8, 8, True)]
        mixed = [(16, 8, False), (32, 8, False), (64, 8, False), (128, 8, False)]
        assert ladder.buckets == tuple(Bucket(*sizes) for sizes in decode + mixed)

    def test_no_batch_has_fewer_than_two_rows(self):
        """A product of one row would convert all weights to float32 at every step."""
        assert min(bucket.num_rows for bucket in Ladder(1, 8, 8).buckets) == 2

    def test_decodes_may_start_larger(self):
        ladder = Ladder(40, 64, smallest_mixed=16, smallest_decode=8)
        assert [b.num_rows for b in ladder.buckets if b.decode_only] == [8, 16, 32, 64]
        assert Ladder(3, 64, 16, smallest_decode=8).buckets[0] == Bucket(8, 8, decode_only=True)

    @pytest.mark.parametrize(
        ("limits", "decode", "mixed"),
        [
            ((32, 128), [2, 8, 32], [32, 128]),
            ((40, 200), [2, 8, 32, 64], [64, 256]),
            ((16, 128), [2, 8, 16], [32, 128]),
            ((1, 32), [2], [32]),
        ],
    )
    def test_a_larger_growth_skips_sizes_but_not_the_last(self, limits, decode, mixed):
        buckets = Ladder(*limits, smallest_mixed=32, growth=4).buckets
        assert [b.num_rows for b in buckets if b.decode_only] == decode
        assert [b.num_tokens for b in buckets if not b.decode_only] == mixed

    def test_a_mixed_bucket_may_take_the_widest_decodes(self):
        ladder = Ladder(32, 128, smallest_mixed=32, growth=4, widest_decode=False)
        assert [b.num_rows for b in ladder.buckets if b.decode_only] == [2, 8]
        decode = make_row([5], 1, 1, output=[6])
        sizes = [ladder.choose(ScheduledBatch((decode,) * n)).num_tokens for n in (1, 8, 9, 32)]
        assert sizes == [2, 8, 32, 32]

    def test_every_width_of_decodes_has_a_bucket_without_one_of_its_own(self):
        ladder = Ladder(4, 32, smallest_mixed=4, widest_decode=False)
        decode = make_row([5], 1, 1, output=[6])
        assert ladder.choose(ScheduledBatch((decode,) * 4)) == Bucket(4, 4, decode_only=False)

    @pytest.mark.parametrize(("max_num_seqs", "budget"), [(64, 64), (64, 32), (33, 40)])
    def test_a_mixed_bucket_has_a_token_for_every_row(self, max_num_seqs, budget):
        buckets = Ladder(max_num_seqs, budget, smallest_mixed=8).buckets
        assert all(bucket.num_tokens >= bucket.num_rows for bucket in buckets)

    def test_a_ladder_keeps_the_budget_it_was_given(self):
        assert Ladder(4, 100, 16).max_num_batched_tokens == 100

    @pytest.mark.parametrize(("num_rows", "size"), [(1, 2), (2, 2), (3, 4), (4, 4)])
    def test_decodes_alone_take_the_smallest_decode_bucket(self, num_rows, size):
        batch = ScheduledBatch((make_row([5], 1, 1, output=[6]),) * num_rows)
        assert LADDER.choose(batch) == Bucket(size, size, decode_only=True)

    @pytest.mark.parametrize(("num_tokens", "size"), [(1, 8), (8, 8), (9, 16), (33, 64), (40, 64)])
    def test_a_prompt_takes_the_smallest_mixed_bucket(self, num_tokens, size):
        batch = ScheduledBatch((make_row([5] * num_tokens, 0, num_tokens),))
        assert LADDER.choose(batch) == Bucket(size, 4, decode_only=False)

    def test_one_prompt_token_is_not_a_decode(self):
        """Its row may be cut from the middle of a prompt, and need not sample."""
        decode, chunk = make_row([5], 1, 1, output=[6]), make_row([5, 5], 0, 1, is_sampling=False)
        assert not LADDER.choose(ScheduledBatch((decode, chunk))).decode_only

    @given(
        max_num_seqs=st.integers(1, 70),
        extra=st.integers(0, 200),
        smallest_mixed=st.sampled_from([8, 32]),
        data=st.data(),
    )
    def test_whatever_the_scheduler_may_ask_has_a_bucket_and_no_smaller_one_would_do(
        self, max_num_seqs, extra, smallest_mixed, data
    ):
        budget = max_num_seqs + extra
        ladder = Ladder(max_num_seqs, budget, smallest_mixed)
        num_rows = data.draw(st.integers(1, max_num_seqs))
        num_chunk = data.draw(st.integers(0, budget - num_rows + 1))
        decode = make_row([5], 1, 1, output=[6])
        chunk = [make_row([5] * num_chunk, 0, num_chunk)] if num_chunk else []
        batch = ScheduledBatch((decode,) * (num_rows - len(chunk)) + tuple(chunk))
        chosen = ladder.choose(batch)
        fitting = [
            bucket
            for bucket in ladder.buckets
            if bucket.decode_only == (not chunk)
            and bucket.num_rows >= num_rows
            and bucket.num_tokens >= batch.num_tokens
        ]
        assert chosen == min(fitting)


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
                assert packed == table + [0] * (TABLE_SIZE - len(table))

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
        for expected, found in zip(empty[:-1], packed[:-1], strict=True):
            np.testing.assert_array_equal(found, expected)


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


class TestSlots:
    @pytest.mark.parametrize(
        ("params", "needed"),
        [
            ({}, False),
            ({"presence_penalty": -0.5}, True),
            ({"frequency_penalty": 0.5}, True),
            ({"repetition_penalty": 0.5}, True),
            ({"logit_bias": {1: 0.0}}, True),
            ({"min_tokens": 1}, True),
            ({"temperature": 0.5, "top_k": 3, "top_p": 0.5, "seed": 9, "num_logprobs": 3}, False),
            ({"stop_token_ids": (4,)}, False),
        ],
    )
    def test_only_penalties_biases_and_a_minimum_length_need_state(self, params, needed):
        assert needs_slot_state(make_sequence([1], **params)) == needed

    def test_an_empty_slot_holds_nothing(self):
        slot = empty_slot(SLOT_SIZES, 1, 3)
        assert slot.slot == 3
        for ids, size in ((slot.prompt_ids, 8), (slot.output_ids, 8), (slot.stop_ids, 2)):
            assert ids.tolist() == [-1] * size
        assert slot.bias_ids.tolist() == [-1] * 3
        assert slot.bias_values.tolist() == [0.0] * 3

    def test_a_sequences_tokens_are_told_apart_by_who_made_them(self):
        """On its return from preemption a sequence has output already."""
        seq = make_row([1, 2, 1], 0, 5, output=[2, 9], slot=3).seq
        slot = pack_slot(seq, SLOT_SIZES)
        assert slot.slot == 3
        assert slot.prompt_ids.tolist() == [1, 2, 1, -1, -1, -1, -1, -1]
        assert slot.output_ids.tolist() == [2, 9, -1, -1, -1, -1, -1, -1]

    def test_biases_keep_their_ids(self):
        slot = pack_slot(make_sequence([1], logit_bias={7: -1.5, 2: 100.0}), SLOT_SIZES)
        assert slot.bias_ids.tolist() == [7, 2, -1]
        assert slot.bias_values.tolist() == [-1.5, 100.0, 0.0]

    def test_stop_ids_are_the_requests_and_the_models(self):
        seq = make_sequence([1], stop_token_ids=(4,))
        assert set(pack_slot(seq, SLOT_SIZES).stop_ids.tolist()) == {4, *seq.eos_token_ids}
        seq = make_sequence([1], stop_token_ids=(4,), ignore_eos=True)
        assert pack_slot(seq, SLOT_SIZES).stop_ids.tolist() == [4, -1]

    def test_a_slot_takes_the_longest_sequence_and_every_bias(self):
        seq = make_row([1] * 5, 0, 8, output=[2] * 3, logit_bias={1: 1.0, 2: 2.0, 3: 3.0}).seq
        slot = pack_slot(seq, SLOT_SIZES)
        assert slot.prompt_ids.tolist() == [1] * 5 + [-1] * 3
        assert slot.bias_ids.tolist() == [1, 2, 3]
