"""Which recurrent states are kept, which are found, and whose slot is given away."""

from __future__ import annotations

import pytest

from server.engine.policy.blocks.block_manager import BlockManager
from server.engine.policy.blocks.block_pool import IntegrityError
from server.engine.policy.blocks.layer_kinds import KVKind
from server.engine.policy.blocks.snapshots import Snapshots, snapshots
from tests.engine.builders import make_sequence

A, B, C = b"a", b"b", b"c"


def kept(pool, *digests):
    for digest in digests:
        pool.settle(pool.begin(digest, 8), is_sound=True)


def make_blocks(num_snapshots=4, **options):
    pool = Snapshots(10, num_snapshots)
    return BlockManager((KVKind(None, 64),), 4, snapshots=pool, **options)


def run(blocks, seq, *ends):
    """Compute a sequence in chunks to these positions; the states that were kept, by position."""
    blocks.begin_pass()
    assert blocks.allocate(seq, len(seq.token_ids) + 1, max_chunk=64)
    found, positions = seq.num_computed_tokens, []
    for end in ends:
        snapshot = blocks.snapshot(seq, end)
        positions += [snapshot.position] if snapshot else []
        seq.num_computed_tokens = end
        blocks.settle(snapshot, is_sound=True)
        blocks.index(seq, end)
    blocks.free(seq)
    blocks.check_integrity([])
    return found, positions


class TestSlots:
    def test_the_least_recently_used_is_given_away_first(self):
        pool = Snapshots(10, 2)
        kept(pool, A, B)
        pool.use(A)
        pool.begin_pass()
        kept(pool, C)
        assert [pool.has(each) for each in (A, B, C)] == [True, False, True]

    def test_what_this_pass_reads_is_not_given_away(self):
        pool = Snapshots(10, 1)
        kept(pool, A)
        assert pool.use(A) == 10
        assert pool.begin(B, 8) is None
        pool.begin_pass()
        assert pool.begin(B, 8).slot == 10

    def test_what_is_being_written_is_neither_found_nor_given_away(self):
        pool = Snapshots(10, 1)
        pending = pool.begin(A, 8)
        assert not pool.has(A)
        assert pool.begin(B, 8) is None
        pool.settle(pending, is_sound=False)
        assert not pool.has(A)
        assert pool.begin(B, 8) is not None

    def test_a_state_that_two_steps_kept_takes_one_slot(self):
        pool = Snapshots(10, 2)
        first, second = pool.begin(A, 8), pool.begin(A, 8)
        for each in (first, second):
            pool.settle(each, is_sound=True)
        pool.check_integrity()
        assert pool.begin(B, 8).slot == second.slot

    def test_none_is_kept_where_there_is_no_slot(self):
        assert Snapshots(10, 0).begin(A, 8) is None
        assert snapshots(10, None) is None

    def test_a_lost_slot_is_noticed(self):
        pool = Snapshots(10, 2)
        pool.begin(A, 8)
        pool.check_integrity()
        pool._pending.clear()
        with pytest.raises(IntegrityError, match="snapshots"):
            pool.check_integrity()


class TestPrefixes:
    def test_one_is_kept_at_the_last_whole_block_before_the_last_token(self):
        blocks = make_blocks()
        assert run(blocks, make_sequence(range(16)), 16) == (0, [12])
        assert run(blocks, make_sequence(range(16)), 16) == (12, [])
        assert run(blocks, make_sequence(range(17)), 17) == (12, [16])

    def test_none_is_kept_between_chunks(self):
        assert run(make_blocks(), make_sequence(range(30)), 8, 20, 30) == (0, [28])

    def test_kv_without_a_state_is_not_found_but_says_where_to_keep_one(self):
        blocks = make_blocks()
        run(blocks, make_sequence([*range(10), *[50] * 10]), 20)
        first = make_sequence([*range(10), *[60] * 10])
        blocks.begin_pass()
        assert blocks.allocate(first, 21, max_chunk=64)
        assert (first.num_computed_tokens, first.kept_positions) == (0, (8, 16))
        # A chunk ends at the first of two, so that both are kept.
        assert [first.whole_chunk(each) for each in (5, 12, 16, 20)] == [5, 12, 8, 8]
        blocks.free(first)
        assert run(blocks, first, 8, 20) == (0, [8, 16])
        assert run(blocks, make_sequence([*range(10), *[70] * 10]), 20)[0] == 8

    def test_what_is_not_finite_is_forgotten_with_its_state(self):
        blocks, seq = make_blocks(), make_sequence(range(16))
        run(blocks, seq, 16)
        blocks.forget(seq)
        assert run(blocks, make_sequence(range(16)), 16)[0] == 0

    def test_without_prefix_caching_none_is_kept(self):
        blocks = make_blocks(prefix_caching=False)
        assert run(blocks, make_sequence(range(16)), 16) == (0, [])
        assert run(blocks, make_sequence(range(16)), 16) == (0, [])
