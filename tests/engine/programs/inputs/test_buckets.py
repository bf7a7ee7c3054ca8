"""The sizes that steps are compiled for, and which of them a batch takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engine.policy.sequences.step import ScheduledBatch
from server.engine.programs.inputs.buckets import Bucket, Ladder, exact_ladder
from tests.engine.programs.rows import make_row

LADDER = Ladder(max_num_seqs=4, max_num_batched_tokens=40, smallest_mixed=8)


def test_sizes_are_powers_of_two_up_to_the_limits():
    ladder = Ladder(max_num_seqs=6, max_num_batched_tokens=100, smallest_mixed=16)
    decode = [(2, 2, True), (4, 4, True), (8, 8, True)]
    mixed = [(16, 8, False), (32, 8, False), (64, 8, False), (128, 8, False)]
    assert ladder.buckets == tuple(Bucket(*sizes) for sizes in decode + mixed)


def test_no_batch_has_fewer_than_two_rows():
    """A product of one row would convert all weights to float32 at every step."""
    assert min(bucket.num_rows for bucket in Ladder(1, 8, 8).buckets) == 2


def test_decodes_may_start_larger():
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
def test_a_larger_growth_skips_sizes_but_not_the_last(limits, decode, mixed):
    buckets = Ladder(*limits, smallest_mixed=32, growth=4).buckets
    assert [b.num_rows for b in buckets if b.decode_only] == decode
    assert [b.num_tokens for b in buckets if not b.decode_only] == mixed


@pytest.mark.parametrize(("max_num_seqs", "budget"), [(64, 64), (64, 32), (33, 40)])
def test_a_mixed_bucket_has_a_token_for_every_row(max_num_seqs, budget):
    buckets = Ladder(max_num_seqs, budget, smallest_mixed=8).buckets
    assert all(bucket.num_tokens >= bucket.num_rows for bucket in buckets)


def test_a_mixed_bucket_with_a_row_for_every_token_still_draws_for_rows():
    ladder = Ladder(64, 64, smallest_mixed=64, num_drafts=1, most_verified=64)
    square = [bucket for bucket in ladder.buckets if bucket.num_tokens == bucket.num_rows == 64]
    assert [(b.decode_only, b.draws_everywhere) for b in square] == [(True, True), (False, False)]
    assert all(bucket.draws_everywhere for bucket in ladder.buckets if bucket.num_drafts)


def test_a_ladder_keeps_the_budget_it_was_given():
    assert Ladder(4, 100, 16).max_num_batched_tokens == 100


@pytest.mark.parametrize(("num_rows", "size"), [(1, 2), (2, 2), (3, 4), (4, 4)])
def test_decodes_alone_take_the_smallest_decode_bucket(num_rows, size):
    batch = ScheduledBatch((make_row([5], 1, 1, output=[6]),) * num_rows)
    assert LADDER.choose(batch) == Bucket(size, size, decode_only=True)


@pytest.mark.parametrize(("num_tokens", "size"), [(1, 8), (8, 8), (9, 16), (33, 64), (40, 64)])
def test_a_prompt_takes_the_smallest_mixed_bucket(num_tokens, size):
    batch = ScheduledBatch((make_row([5] * num_tokens, 0, num_tokens),))
    assert LADDER.choose(batch) == Bucket(size, 4, decode_only=False)


def test_one_prompt_token_is_not_a_decode():
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
    max_num_seqs, extra, smallest_mixed, data
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


@pytest.mark.parametrize(
    ("limits", "sizes"), [((32, 128), (32, 128)), ((6, 100), (8, 128)), ((40, 40), (64, 64))]
)
def test_an_exact_ladder_has_one_size_of_each_kind_whatever_the_batch(limits, sizes):
    ladder = exact_ladder(*limits)
    rows, tokens = sizes
    assert ladder.buckets == (
        Bucket(rows, rows, decode_only=True),
        Bucket(tokens, rows, decode_only=False),
    )
    assert ladder.max_num_batched_tokens == tokens


class TestVerifying:
    """Sizes of steps in which decodes have drafts."""

    ladder = Ladder(32, 128, smallest_mixed=32, growth=4, num_drafts=7, most_verified=32)

    def rows(self, *num_drafts):
        rows = [make_row([5], 1, 1 + count, output=[6]) for count in num_drafts]
        drafts = [tuple(range(count)) for count in num_drafts]
        return ScheduledBatch(
            tuple(row._replace(draft_ids=ids) for row, ids in zip(rows, drafts, strict=True))
        )

    def test_a_ladder_verifies_for_few_rows(self):
        rooms = [(room.num_rows, room.num_tokens) for room in self.ladder.draft_rooms]
        assert rooms == [(2, 8), (8, 32)]
        assert [b.num_draws for b in self.ladder.buckets if b.num_drafts] == [8, 32]
        assert [b.row_tokens for b in self.ladder.buckets if b.num_drafts] == [8, 8]

    def test_without_drafts_there_is_none(self):
        assert Ladder(32, 128, smallest_mixed=32, most_verified=32).draft_rooms == ()

    def test_no_size_exceeds_the_budget(self):
        ladder = Ladder(8, 8, smallest_mixed=8, num_drafts=7, most_verified=32)
        assert [room.num_tokens for room in ladder.draft_rooms] == [8]

    def test_one_row_may_have_all_drafts_there_are(self):
        ladder = Ladder(8, 128, smallest_mixed=32, num_drafts=15, most_verified=32)
        assert min(room.num_tokens for room in ladder.draft_rooms) == 16

    @pytest.mark.parametrize(
        ("num_drafts", "size"),
        [((7,), (8, 2)), ((3, 3), (8, 2)), ((1, 0, 0), (32, 8)), ((7, 7), (32, 8))],
    )
    def test_a_batch_with_drafts_gets_the_smallest_that_holds_rows_and_tokens(
        self, num_drafts, size
    ):
        bucket = self.ladder.choose(self.rows(*num_drafts))
        assert (bucket.num_tokens, bucket.num_rows) == size
        assert bucket.num_drafts == 7

    def test_decodes_without_drafts_run_as_ever(self):
        assert self.ladder.choose(self.rows(0, 0)) == Bucket(2, 2, decode_only=True)
        assert not self.ladder.choose(self.rows(*[0] * 9)).num_drafts
