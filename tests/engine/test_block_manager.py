from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from server.engine.block_manager import BlockManager, IntegrityError
from tests.engine.builders import make_sequence


def allocate(blocks, prompt, num_tokens=None, **params):
    seq = make_sequence(prompt, **params)
    assert blocks.allocate(seq, num_tokens or len(prompt))
    return seq


def cached_after(blocks, prompt, **params):
    """Tokens that a new sequence of `prompt` would find."""
    seq = allocate(blocks, prompt, **params)
    found = seq.num_computed_tokens
    blocks.free(seq)
    return found


def compute_and_free(blocks, prompt):
    seq = allocate(blocks, prompt)
    blocks.index(seq, len(prompt))
    blocks.free(seq)


@pytest.mark.parametrize(("num_blocks", "block_size"), [(1, 4), (0, 4), (8, 0)])
def test_a_pool_that_holds_nothing_is_refused(num_blocks, block_size):
    with pytest.raises(ValueError, match="hold nothing"):
        BlockManager(num_blocks, block_size)


def test_the_padding_block_is_never_given():
    blocks = BlockManager(5, 4)
    seq = allocate(blocks, range(16))
    assert sorted(seq.block_table) == [1, 2, 3, 4]
    assert blocks.num_free_blocks == 0


def test_allocation_is_all_or_nothing():
    blocks = BlockManager(5, 4)
    seq = make_sequence(range(17))
    assert not blocks.allocate(seq, 17)
    assert seq.block_table == []
    assert blocks.num_free_blocks == 4


def test_allocation_leaves_the_spare_blocks_free():
    blocks = BlockManager(5, 4)
    assert not blocks.allocate(make_sequence(range(12)), 12, num_spare=2)
    assert blocks.allocate(make_sequence(range(12)), 12, num_spare=1)


def test_growing_takes_a_block_only_at_a_block_boundary():
    blocks = BlockManager(4, 4)
    seq = allocate(blocks, range(4))
    assert blocks.grow(seq, 4)
    assert len(seq.block_table) == 1
    assert blocks.grow(seq, 5)
    assert blocks.grow(seq, 8)
    assert len(seq.block_table) == 2
    assert not blocks.grow(seq, 13 + 4)
    assert len(seq.block_table) == 2, "unchanged when there are too few"


def test_a_freed_sequence_holds_nothing():
    blocks = BlockManager(5, 4)
    seq = allocate(blocks, range(10))
    blocks.free(seq)
    assert (seq.block_table, seq.num_computed_tokens, seq.num_indexed_blocks) == ([], 0, 0)
    assert blocks.num_free_blocks == 4
    blocks.check_integrity([])


def test_whole_computed_blocks_are_found_again():
    blocks = BlockManager(9, 4)
    compute_and_free(blocks, range(10))
    assert cached_after(blocks, range(10)) == 8
    assert cached_after(blocks, [*range(8), 99, 98]) == 8
    assert cached_after(blocks, [*range(4), 99, 98, 97, 96, 95]) == 4
    assert cached_after(blocks, [99, *range(1, 10)]) == 0


def test_the_last_token_is_never_found_since_it_must_run():
    blocks = BlockManager(9, 4)
    compute_and_free(blocks, range(8))
    assert cached_after(blocks, range(8)) == 4
    assert cached_after(blocks, range(9)) == 8


def test_what_is_not_indexed_is_not_found():
    blocks = BlockManager(9, 4)
    seq = allocate(blocks, range(10))
    assert cached_after(blocks, range(10)) == 0
    blocks.index(seq, 7)
    assert cached_after(blocks, range(10)) == 4


def test_a_found_block_is_shared_while_it_is_held():
    blocks = BlockManager(9, 4)
    first = allocate(blocks, range(10))
    blocks.index(first, 10)
    second = allocate(blocks, range(10))
    assert second.block_table[:2] == first.block_table[:2]
    assert second.block_table[2] != first.block_table[2]
    assert blocks.num_free_blocks == 4
    blocks.free(first)
    assert blocks.num_free_blocks == 5
    blocks.check_integrity([second.block_table])


def test_the_same_content_computed_twice_is_indexed_once():
    blocks = BlockManager(9, 4)
    first, second = allocate(blocks, range(8)), allocate(blocks, range(8))
    blocks.index(first, 8)
    blocks.index(second, 8)
    third = allocate(blocks, range(9))
    assert third.block_table[:2] == first.block_table
    blocks.check_integrity([first.block_table, second.block_table, third.block_table])


def test_the_least_recently_freed_content_is_reused_first():
    blocks = BlockManager(5, 4)
    compute_and_free(blocks, [1, 1, 1, 1])
    compute_and_free(blocks, [2, 2, 2, 2])
    compute_and_free(blocks, [3, 3, 3, 3])
    blocks.free(allocate(blocks, range(8), num_tokens=8))  # The blank block, then the oldest.
    assert cached_after(blocks, [2, 2, 2, 2, 0]) == 4
    assert cached_after(blocks, [3, 3, 3, 3, 0]) == 4
    assert cached_after(blocks, [1, 1, 1, 1, 0]) == 0


def test_of_one_sequence_the_tail_is_reused_first():
    blocks = BlockManager(3, 4)
    compute_and_free(blocks, range(8))
    blocks.free(allocate(blocks, [9, 9, 9, 9]))
    assert cached_after(blocks, range(8)) == 4


def test_a_cached_block_that_is_found_counts_as_taken():
    blocks = BlockManager(4, 4)
    compute_and_free(blocks, range(8))
    holder = allocate(blocks, [9, 9, 9, 9])
    assert not blocks.allocate(make_sequence(range(9)), 9 + 4)
    seq = make_sequence(range(8))
    assert blocks.allocate(seq, 8)
    assert blocks.num_free_blocks == 0
    blocks.check_integrity([holder.block_table, seq.block_table])


def test_another_version_finds_nothing_of_this_one():
    """The seed enters every digest, so equal digests mean equal weights too."""
    one, two = BlockManager(5, 4, seed="1"), BlockManager(5, 4, seed="2")
    seqs = [allocate(blocks, range(4)) for blocks in (one, two)]
    for blocks, seq in zip((one, two), seqs, strict=True):
        blocks.index(seq, 4)
    assert seqs[0].block_digests != seqs[1].block_digests


def test_a_digest_depends_on_all_tokens_before_its_block():
    blocks = BlockManager(9, 2)
    left, right = allocate(blocks, [1, 2, 5, 6]), allocate(blocks, [3, 4, 5, 6])
    blocks.index(left, 4)
    blocks.index(right, 4)
    assert left.block_digests[1] != right.block_digests[1]
    assert len(left.block_digests[0]) == 16


def test_prompt_logprobs_find_nothing_so_that_every_token_is_computed():
    blocks = BlockManager(9, 4)
    compute_and_free(blocks, range(10))
    assert cached_after(blocks, range(10), num_prompt_logprobs=0) == 0


def test_without_prefix_caching_nothing_is_found():
    blocks = BlockManager(9, 4, prefix_caching=False)
    compute_and_free(blocks, range(10))
    assert cached_after(blocks, range(10)) == 0
    assert blocks.num_shareable_blocks(10) == 0


def test_forgotten_content_is_not_found_though_held():
    blocks = BlockManager(9, 4)
    seq = allocate(blocks, range(10))
    blocks.index(seq, 10)
    blocks.forget(seq)
    assert cached_after(blocks, range(10)) == 0
    blocks.free(seq)
    assert cached_after(blocks, range(10)) == 0
    blocks.check_integrity([])


def test_integrity_fails_on_a_leak_and_on_a_block_held_by_nobody_known():
    blocks = BlockManager(9, 4)
    seq = allocate(blocks, range(10))
    blocks.check_integrity([seq.block_table])
    with pytest.raises(IntegrityError, match="0 held and 5 free"):
        blocks.check_integrity([])
    with pytest.raises(IntegrityError, match="reference counts"):
        blocks.check_integrity([seq.block_table, seq.block_table])


class BlockManagerMachine(RuleBasedStateMachine):
    """Any order of operations; what each block was indexed for is kept on the side."""

    held = Bundle("held")

    @initialize(num_blocks=st.integers(2, 12), block_size=st.integers(1, 4), caching=st.booleans())
    def create(self, num_blocks, block_size, caching):
        self.blocks = BlockManager(num_blocks, block_size, prefix_caching=caching)
        self.seqs = []
        self.content: dict[int, tuple[int, ...]] = {}

    @rule(
        target=held,
        prompt=st.lists(st.integers(0, 1), min_size=1, max_size=20),
        num_more=st.integers(0, 4),
        num_spare=st.integers(0, 2),
    )
    def allocate(self, prompt, num_more, num_spare):
        seq = make_sequence(prompt)
        num_free = self.blocks.num_free_blocks
        if not self.blocks.allocate(seq, len(prompt) + num_more, num_spare=num_spare):
            assert self.blocks.num_free_blocks == num_free
            return multiple()
        assert self.blocks.num_free_blocks >= num_spare
        assert seq.num_computed_tokens < len(prompt)
        size = self.blocks.block_size
        for i in range(seq.num_computed_tokens // size):
            expected = tuple(prompt[: (i + 1) * size])
            assert self.content[seq.block_table[i]] == expected, "found what is not its own"
        for block in seq.block_table[seq.num_computed_tokens // size :]:
            self.content.pop(block, None)
        self.seqs.append(seq)
        return seq

    @rule(seq=held, num_more=st.integers(1, 6))
    def grow(self, seq, num_more):
        if seq not in self.seqs:
            return
        num_before = len(seq.block_table)
        if self.blocks.grow(seq, num_before * self.blocks.block_size + num_more):
            for block in seq.block_table[num_before:]:
                self.content.pop(block, None)
        else:
            assert len(seq.block_table) == num_before

    @rule(seq=held, part=st.floats(0, 1))
    def index(self, seq, part):
        if seq not in self.seqs:
            return
        num_tokens = int(part * len(seq.token_ids))
        self.blocks.index(seq, num_tokens)
        size = self.blocks.block_size
        for i in range(num_tokens // size):
            self.content[seq.block_table[i]] = tuple(seq.token_ids[: (i + 1) * size])

    @rule(seq=held)
    def forget(self, seq):
        self.blocks.forget(seq)

    @rule(seq=consumes(held))
    def free(self, seq):
        if seq in self.seqs:
            self.seqs.remove(seq)
            self.blocks.free(seq)

    @invariant()
    def is_sound(self):
        self.blocks.check_integrity(seq.block_table for seq in self.seqs)

    def teardown(self):
        if hasattr(self, "blocks"):
            for seq in self.seqs:
                self.blocks.free(seq)
            self.blocks.check_integrity([])
            assert self.blocks.num_free_blocks == self.blocks.num_usable_blocks


TestBlockManagerMachine = BlockManagerMachine.TestCase
TestBlockManagerMachine.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
