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

from server.engine.policy.blocks.block_manager import BlockManager
from server.engine.policy.blocks.block_pool import IntegrityError
from server.engine.policy.blocks.layer_kinds import KVKind
from server.engine.policy.sequences.sequence import LoadedVersion
from tests.engine.builders import is_all_free, make_blocks, make_image, make_sequence

# 150; with --unit, which runs all the time, 37.
EXAMPLES = settings.default.max_examples * 3 // 2
ALL_AT_ONCE = 1000


def allocate(blocks, prompt, num_tokens=None, **params):
    seq = make_sequence(prompt, **params)
    assert blocks.allocate(seq, num_tokens or len(prompt), max_chunk=ALL_AT_ONCE)
    return seq


def table(seq):
    """The blocks of a sequence where there is but one kind of layers."""
    [only] = seq.block_tables
    return only


def num_free(blocks):
    """By pool."""
    return [pool.num_free_blocks for pool in blocks.pools]


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
        make_blocks(num_blocks, block_size)


def test_the_padding_block_is_never_given():
    blocks = make_blocks(5, 4)
    seq = allocate(blocks, range(16))
    assert sorted(table(seq)) == [1, 2, 3, 4]
    assert num_free(blocks) == [0]


def test_allocation_is_all_or_nothing():
    blocks = make_blocks(5, 4)
    seq = make_sequence(range(17))
    assert not blocks.allocate(seq, 17, max_chunk=ALL_AT_ONCE)
    assert seq.block_tables == ()
    assert num_free(blocks) == [4]


def test_allocation_leaves_each_of_the_others_a_block_to_grow_into():
    blocks = make_blocks(7, 4)
    others = [allocate(blocks, [i]) for i in range(2)]
    seq = make_sequence(range(12))
    assert not blocks.allocate(seq, 12, max_chunk=ALL_AT_ONCE, others=others)
    assert blocks.allocate(seq, 12, max_chunk=ALL_AT_ONCE, others=others[:1])


def test_growing_takes_a_block_only_at_a_block_boundary():
    blocks = make_blocks(4, 4)
    seq = allocate(blocks, range(4))
    seq.num_computed_tokens = 3
    assert blocks.grow(seq, 1) == 1
    assert len(table(seq)) == 1
    assert blocks.grow(seq, 2) == 2
    assert blocks.grow(seq, 5) == 5
    assert len(table(seq)) == 2


def test_growing_goes_as_far_as_there_are_blocks():
    blocks = make_blocks(4, 4)
    seq = allocate(blocks, range(4))
    seq.num_computed_tokens = 4
    assert blocks.grow(seq, 13) == 8
    assert len(table(seq)) == 3
    seq.num_computed_tokens = 12
    assert blocks.grow(seq, 1) == 0
    assert len(table(seq)) == 3


def test_a_freed_sequence_holds_nothing():
    blocks = make_blocks(5, 4)
    seq = allocate(blocks, range(10))
    blocks.free(seq)
    assert (seq.block_tables, seq.num_computed_tokens, seq.num_indexed_blocks) == ((), 0, 0)
    assert num_free(blocks) == [4]
    blocks.check_integrity([])


def test_whole_computed_blocks_are_found_again():
    blocks = make_blocks(9, 4)
    compute_and_free(blocks, range(10))
    assert cached_after(blocks, range(10)) == 8
    assert cached_after(blocks, [*range(8), 99, 98]) == 8
    assert cached_after(blocks, [*range(4), 99, 98, 97, 96, 95]) == 4
    assert cached_after(blocks, [99, *range(1, 10)]) == 0


def test_the_last_token_is_never_found_since_it_must_run():
    blocks = make_blocks(9, 4)
    compute_and_free(blocks, range(8))
    assert cached_after(blocks, range(8)) == 4
    assert cached_after(blocks, range(9)) == 8


def test_what_is_not_indexed_is_not_found():
    blocks = make_blocks(9, 4)
    seq = allocate(blocks, range(10))
    assert cached_after(blocks, range(10)) == 0
    blocks.index(seq, 7)
    assert cached_after(blocks, range(10)) == 4


def test_a_found_block_is_shared_while_it_is_held():
    blocks = make_blocks(9, 4)
    first = allocate(blocks, range(10))
    blocks.index(first, 10)
    second = allocate(blocks, range(10))
    assert table(second)[:2] == table(first)[:2]
    assert table(second)[2] != table(first)[2]
    assert num_free(blocks) == [4]
    blocks.free(first)
    assert num_free(blocks) == [5]
    blocks.check_integrity([second])


def test_the_same_content_computed_twice_is_indexed_once():
    blocks = make_blocks(9, 4)
    first, second = allocate(blocks, range(8)), allocate(blocks, range(8))
    blocks.index(first, 8)
    blocks.index(second, 8)
    third = allocate(blocks, range(9))
    assert table(third)[:2] == table(first)
    blocks.check_integrity([first, second, third])


def test_the_least_recently_freed_content_is_reused_first():
    blocks = make_blocks(5, 4)
    compute_and_free(blocks, [1, 1, 1, 1])
    compute_and_free(blocks, [2, 2, 2, 2])
    compute_and_free(blocks, [3, 3, 3, 3])
    blocks.free(allocate(blocks, range(8), num_tokens=8))  # The blank block, then the oldest.
    assert cached_after(blocks, [2, 2, 2, 2, 0]) == 4
    assert cached_after(blocks, [3, 3, 3, 3, 0]) == 4
    assert cached_after(blocks, [1, 1, 1, 1, 0]) == 0


def test_of_one_sequence_the_tail_is_reused_first():
    blocks = make_blocks(3, 4)
    compute_and_free(blocks, range(8))
    blocks.free(allocate(blocks, [9, 9, 9, 9]))
    assert cached_after(blocks, range(8)) == 4


def test_a_cached_block_that_is_found_counts_as_taken():
    blocks = make_blocks(4, 4)
    compute_and_free(blocks, range(8))
    holder = allocate(blocks, [9, 9, 9, 9])
    assert not blocks.allocate(make_sequence(range(9)), 9 + 4, max_chunk=ALL_AT_ONCE)
    seq = make_sequence(range(8))
    assert blocks.allocate(seq, 8, max_chunk=ALL_AT_ONCE)
    assert num_free(blocks) == [0]
    blocks.check_integrity([holder, seq])


def test_another_version_finds_nothing_of_this_one():
    """Nor does a version loaded again: its files may have come from elsewhere."""
    blocks = make_blocks(9, 4)
    for version in (LoadedVersion("1", 1), LoadedVersion("2", 2), LoadedVersion("1", 3)):
        seq = make_sequence(range(9), version=version)
        assert blocks.allocate(seq, 9, max_chunk=ALL_AT_ONCE)
        assert seq.num_computed_tokens == 0
        blocks.index(seq, 8)
        blocks.free(seq)
    again = make_sequence(range(9), version=LoadedVersion("2", 2))
    assert blocks.allocate(again, 9, max_chunk=ALL_AT_ONCE)
    assert again.num_computed_tokens == 8


def test_a_digest_depends_on_all_tokens_before_its_block():
    blocks = make_blocks(9, 2)
    left, right = allocate(blocks, [1, 2, 5, 6]), allocate(blocks, [3, 4, 5, 6])
    blocks.index(left, 4)
    blocks.index(right, 4)
    assert left.block_digests[1] != right.block_digests[1]
    assert len(left.block_digests[0]) == 16


def test_prompt_logprobs_find_nothing_so_that_every_token_is_computed():
    blocks = make_blocks(9, 4)
    compute_and_free(blocks, range(10))
    assert cached_after(blocks, range(10), num_prompt_logprobs=0) == 0


def test_without_prefix_caching_nothing_is_found():
    blocks = make_blocks(9, 4, prefix_caching=False)
    compute_and_free(blocks, range(10))
    assert cached_after(blocks, range(10)) == 0
    assert blocks.num_shareable_blocks(10) == 0


def test_forgotten_content_is_not_found_though_held():
    blocks = make_blocks(9, 4)
    seq = allocate(blocks, range(10))
    blocks.index(seq, 10)
    blocks.forget(seq)
    assert cached_after(blocks, range(10)) == 0
    blocks.free(seq)
    assert cached_after(blocks, range(10)) == 0
    blocks.check_integrity([])


def test_integrity_fails_on_a_leak_and_on_a_block_held_by_nobody_known():
    blocks = make_blocks(9, 4)
    seq = allocate(blocks, range(10))
    blocks.check_integrity([seq])
    with pytest.raises(IntegrityError, match="0 held and 5 free"):
        blocks.check_integrity([])
    with pytest.raises(IntegrityError, match="reference counts"):
        blocks.check_integrity([seq, seq])


class TestWindows:
    """One kind of layers keeps everything, the other the last 8 tokens, in blocks of 4."""

    def blocks(self, num_blocks=20, num_window_blocks=20, window=8):
        return BlockManager((KVKind(None, num_blocks), KVKind(window, num_window_blocks)), 4)

    def run(self, blocks, seq, num_tokens):
        """Compute some more tokens, in a step that is read before the next."""
        assert blocks.grow(seq, num_tokens) == num_tokens
        seq.num_computed_tokens += num_tokens
        blocks.index(seq, seq.num_computed_tokens)
        blocks.slide(seq, seq.num_computed_tokens)

    def num_held(self, seq):
        return [sum(block > 0 for block in table) for table in seq.block_tables]

    def computed(self, blocks, prompt, chunk=4):
        seq = make_sequence(prompt)
        assert blocks.allocate(seq, len(prompt), max_chunk=chunk)
        while seq.num_computed_tokens < len(prompt):
            self.run(blocks, seq, min(chunk, len(prompt) - seq.num_computed_tokens))
        return seq

    def found(self, blocks, prompt):
        seq = make_sequence(prompt)
        assert blocks.allocate(seq, len(prompt), max_chunk=ALL_AT_ONCE)
        return seq

    def test_the_kinds_number_their_blocks_each_by_itself(self):
        seq = self.computed(self.blocks(), range(8))
        assert [sorted(table) for table in seq.block_tables] == [[1, 2], [1, 2]]

    def test_a_long_prompt_is_admitted_with_a_share_of_the_windowed_blocks(self):
        seq = make_sequence(range(40))
        assert self.blocks().allocate(seq, 40, max_chunk=4)
        assert self.num_held(seq) == [10, 3]

    def test_a_long_prompt_is_admitted_with_the_blocks_of_its_first_chunk_if_those_are_more(self):
        seq = make_sequence(range(40))
        assert self.blocks().allocate(seq, 40, max_chunk=17)
        assert self.num_held(seq) == [10, 5]

    def test_a_short_prompt_takes_no_more_than_it_needs(self):
        seq = make_sequence(range(7))
        assert self.blocks().allocate(seq, 7, max_chunk=17)
        assert self.num_held(seq) == [2, 2]

    def test_nothing_is_taken_of_one_kind_where_another_has_too_few(self):
        for sizes in ((5, 20), (20, 3)):
            blocks = self.blocks(*sizes)
            assert not blocks.allocate(make_sequence(range(20)), 20, max_chunk=4)
            assert is_all_free(blocks)

    def test_a_block_is_given_back_when_the_next_token_sees_none_of_it(self):
        for num_computed, num_given_back in ((10, 0), (11, 1), (14, 1), (15, 2)):
            blocks = self.blocks()
            seq = self.computed(blocks, range(num_computed), chunk=1)
            assert [table.count(0) for table in seq.block_tables] == [0, num_given_back]
            blocks.check_integrity([seq])

    def test_a_window_of_one_token_needs_nothing_of_the_past(self):
        seq = self.computed(self.blocks(window=1), range(8))
        assert list(seq.block_tables[1]) == [0, 0]

    def test_a_sequence_goes_on_for_ever_in_its_share(self):
        blocks = self.blocks(num_blocks=100, num_window_blocks=4)
        seq = self.computed(blocks, range(300), chunk=1)
        assert self.num_held(seq)[1] <= 3
        blocks.free(seq)
        assert is_all_free(blocks)

    def test_given_back_content_is_found_until_it_is_needed(self):
        blocks = self.blocks()
        blocks.free(self.computed(blocks, range(30)))
        for shared in (8, 12, 20, 28):
            seq = self.found(blocks, [*range(shared), *range(90, 99)])
            assert seq.num_computed_tokens == shared
            assert [table.count(0) for table in seq.block_tables] == [0, max(0, shared - 7) // 4]
            blocks.free(seq)
        blocks.check_integrity([])

    def test_a_prefix_is_found_without_what_is_out_of_sight_behind_it(self):
        blocks = self.blocks(num_window_blocks=6)
        seq = self.computed(blocks, range(40))
        other = self.found(blocks, range(40))
        assert other.num_computed_tokens == 36
        assert list(other.block_tables[1][:7]) == [0] * 7
        assert other.block_tables[1][8] == seq.block_tables[1][8] > 0

    def test_the_longest_prefix_is_taken_whose_window_is_there(self):
        """Of 40 tokens the windowed pool has kept the last ones and, for another, the first."""
        blocks = self.blocks(num_window_blocks=6)
        first = self.computed(blocks, range(8))
        blocks.free(self.computed(blocks, range(40)))
        assert self.found(blocks, [*range(12), 90]).num_computed_tokens == 8
        blocks.free(first)

    def test_a_window_alone_is_no_prefix(self):
        blocks = self.blocks(num_blocks=11)
        blocks.free(self.computed(blocks, range(20)))
        holder = make_sequence(range(50, 86))
        assert blocks.allocate(holder, 36, max_chunk=4)
        assert self.found(blocks, [*range(4)]).num_computed_tokens == 0

    def test_where_all_layers_have_the_window_no_more_than_it_is_asked_for(self):
        blocks = BlockManager((KVKind(8, 5),), 4)
        blocks.free(self.computed(blocks, range(40)))
        seq = self.found(blocks, range(40))
        assert seq.num_computed_tokens == 36
        assert blocks.max_num_tokens > 10**9

    def test_growing_is_cut_short_by_the_scarcest_kind(self):
        blocks = self.blocks(num_window_blocks=6)
        seq = make_sequence(range(40))
        assert blocks.allocate(seq, 40, max_chunk=4)
        assert blocks.grow(seq, 40) == 20

    def test_rather_than_be_cut_short_it_gives_back_what_is_not_read_yet(self):
        blocks = self.blocks(num_window_blocks=6)
        seq = make_sequence(range(60))
        assert blocks.allocate(seq, 60, max_chunk=20)
        seq.num_computed_tokens = 20
        assert blocks.grow(seq, 12) == 12
        assert list(seq.block_tables[1][:3]) == [0, 0, 0]
        blocks.index(seq, 20)
        blocks.check_integrity([seq])
        blocks.free(seq)
        found = self.found(blocks, range(20))
        assert found.num_computed_tokens == 0, "what was given back unread is lost"

    def test_a_chunk_leaves_each_of_the_others_a_block_to_grow_into(self):
        blocks = self.blocks(num_window_blocks=9)
        growing, full = self.found(blocks, [1]), self.computed(blocks, range(50, 68), chunk=1)
        seq = make_sequence(range(40))
        assert blocks.allocate(seq, 40, max_chunk=4)
        assert self.num_held(full)[1] == 3
        assert num_free(blocks)[1] == 1
        assert blocks.grow(seq, 16, others=[growing, full, seq]) == 12
        assert blocks.grow(seq, 16, others=[full, seq]) == 16

    def test_what_it_needs_for_its_window_it_takes_whoever_wants_to_grow(self):
        blocks = self.blocks(num_window_blocks=4)
        growing = self.found(blocks, [1])
        seq = self.found(blocks, [2, 2, 2, 2])
        seq.num_computed_tokens = 4
        assert blocks.grow(seq, 8, others=[growing]) == 4
        assert num_free(blocks)[1] == 0

    def test_what_was_given_back_is_forgotten_too(self):
        blocks = self.blocks()
        seq = self.computed(blocks, range(30))
        assert all(pool.has(digest) for pool in blocks.pools for digest in seq.block_digests)
        blocks.forget(seq)
        blocks.check_integrity([seq])
        assert not any(pool.has(digest) for pool in blocks.pools for digest in seq.block_digests)

    def test_a_sequence_that_has_lost_its_blocks_can_still_be_forgotten(self):
        blocks = self.blocks()
        seq = self.computed(blocks, range(30))
        blocks.free(seq)
        blocks.forget(seq)
        blocks.check_integrity([])
        assert self.found(blocks, range(30)).num_computed_tokens == 0

    def test_the_fullest_pool_speaks_for_all(self):
        blocks = self.blocks(num_blocks=11, num_window_blocks=5)
        assert blocks.fullest.usage == 0
        self.computed(blocks, range(10))
        assert blocks.fullest.usage == 0.75
        self.computed(blocks, range(50, 54))
        assert (blocks.fullest.num_free_blocks, blocks.fullest.num_usable_blocks) == (0, 4)

    @pytest.mark.parametrize(("max_chunk", "max_num_tokens"), [(6, 100), (100, 20)])
    def test_a_pool_must_hold_a_window_and_a_chunk(self, max_chunk, max_num_tokens):
        self.blocks(40, 6).check_windows(max_chunk, max_num_tokens)
        with pytest.raises(ValueError, match="4 KV blocks of 4 tokens are too few"):
            self.blocks(40, 5).check_windows(max_chunk, max_num_tokens)


class BlockManagerMachine(RuleBasedStateMachine):
    """Any order of operations; what each block was indexed for is kept on the side."""

    held = Bundle("held")

    @initialize(
        num_blocks=st.lists(st.integers(2, 12), min_size=2, max_size=2),
        windows=st.sampled_from([(None,), (None, 1), (None, 3), (None, 8), (5,)]),
        block_size=st.integers(1, 4),
        caching=st.booleans(),
    )
    def create(self, num_blocks, windows, block_size, caching):
        self.kinds = tuple(map(KVKind, windows, num_blocks))
        self.blocks = BlockManager(self.kinds, block_size, prefix_caching=caching)
        self.seqs = []
        self.content: list[dict[int, tuple[int, ...]]] = [{} for _ in self.kinds]

    @rule(
        target=held,
        prompt=st.lists(st.integers(0, 1), min_size=1, max_size=20),
        num_more=st.integers(0, 4),
        max_chunk=st.integers(1, 8),
        num_others=st.integers(0, 2),
    )
    def allocate(self, prompt, num_more, max_chunk, num_others):
        seq, others = make_sequence(prompt), self.seqs[:num_others]
        before = num_free(self.blocks)
        num_tokens = len(prompt) + num_more
        if not self.blocks.allocate(seq, num_tokens, max_chunk=max_chunk, others=others):
            assert num_free(self.blocks) == before
            return multiple()
        assert seq.num_computed_tokens < len(prompt)
        self.check_spared(others)
        self.check_found(seq)
        end = min(num_tokens, seq.num_computed_tokens + max_chunk)
        assert min(map(len, seq.block_tables)) >= self.blocks.num_blocks_for(end)
        self.seqs.append(seq)
        return seq

    @rule(seq=held, wanted=st.integers(1, 6), num_others=st.integers(0, 2))
    def compute(self, seq, wanted, num_others):
        """A step is dispatched; it is read when it is indexed, or later ones are."""
        if seq not in self.seqs:
            return
        lengths = list(map(len, seq.block_tables))
        num_tokens = self.blocks.grow(seq, wanted, others=self.seqs[:num_others])
        assert num_tokens == wanted or 0 in num_free(self.blocks) or num_others
        for content, table, length in zip(self.content, seq.block_tables, lengths, strict=True):
            for block in table[length:]:
                content.pop(block, None)
        seq.num_computed_tokens += num_tokens
        end = self.blocks.num_blocks_for(seq.num_computed_tokens)
        assert min(map(len, seq.block_tables)) >= end

    @rule(seq=held, part=st.floats(0, 1), is_sliding=st.booleans())
    def read(self, seq, part, is_sliding):
        if seq not in self.seqs:
            return
        num_tokens = int(part * min(seq.num_computed_tokens, len(seq.token_ids)))
        self.blocks.index(seq, num_tokens)
        for content, table in zip(self.content, seq.block_tables, strict=True):
            for i, block in enumerate(table[: num_tokens // self.blocks.block_size]):
                content[block] = self.prefix(seq, i)
        if is_sliding:
            self.blocks.slide(seq, num_tokens)

    @rule(seq=held)
    def forget(self, seq):
        self.blocks.forget(seq)

    @rule(seq=consumes(held))
    def free(self, seq):
        if seq in self.seqs:
            self.seqs.remove(seq)
            self.blocks.free(seq)

    def prefix(self, seq, i):
        return tuple(seq.token_ids[: (i + 1) * self.blocks.block_size])

    def check_found(self, seq):
        """All that the next token sees is there; and the rest of the blocks is new."""
        num_found = seq.num_computed_tokens // self.blocks.block_size
        for kind, content, table in zip(self.kinds, self.content, seq.block_tables, strict=True):
            first = kind.first_block(seq.num_computed_tokens, self.blocks.block_size)
            assert not any(table[:first])
            for i in range(first, num_found):
                assert content[table[i]] == self.prefix(seq, i), "found what is not its own"
            for block in table[num_found:]:
                content.pop(block, None)

    def check_spared(self, others):
        for i, kind in enumerate(self.kinds):
            share = kind.share(self.blocks.block_size)
            num_held = [sum(block > 0 for block in seq.block_tables[i]) for seq in others]
            num_growing = sum(held < share for held in num_held)
            assert self.blocks.pools[i].num_free_blocks >= num_growing

    @invariant()
    def is_sound(self):
        if not hasattr(self, "blocks"):
            return
        self.blocks.check_integrity(self.seqs)
        for seq in self.seqs:
            for kind, table in zip(self.kinds, seq.block_tables, strict=True):
                first = kind.first_block(seq.num_computed_tokens, self.blocks.block_size)
                assert all(table[first:]), "what the next token sees was given back"
                assert sorted(map(bool, table)) == list(map(bool, table))

    def teardown(self):
        if hasattr(self, "blocks"):
            for seq in self.seqs:
                self.blocks.free(seq)
            self.blocks.check_integrity([])
            assert is_all_free(self.blocks)


TestBlockManagerMachine = BlockManagerMachine.TestCase
TestBlockManagerMachine.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=30, deadline=None
)


class TestImages:
    """Tokens of images are alike: what tells prefixes apart is the image, and where it begins."""

    PROMPT = [5] * 20

    def cached(self, first, second, **fields):
        blocks = make_blocks(32, 4)
        seq = allocate(blocks, self.PROMPT, images=first)
        blocks.index(seq, len(self.PROMPT))
        blocks.free(seq)
        return cached_after(blocks, self.PROMPT, images=second, **fields)

    def test_the_same_image_in_the_same_place_is_found(self):
        image = [make_image(2, 8, b"a cat")]
        assert self.cached(image, image) == 16

    def test_another_image_is_not(self):
        assert self.cached([make_image(6, 8, b"a cat")], [make_image(6, 8, b"a dog")]) == 4

    def test_text_of_the_same_tokens_is_not(self):
        assert self.cached([make_image(4, 8, b"a cat")], []) == 4
        assert self.cached([], [make_image(4, 8, b"a cat")]) == 4

    def test_the_same_image_elsewhere_is_not(self):
        assert self.cached([make_image(5, 8, b"a cat")], [make_image(4, 8, b"a cat")]) == 4

    def test_two_images_are_told_apart_by_their_order(self):
        cat, dog = b"a cat", b"a dog"
        first = [make_image(4, 4, cat), make_image(8, 4, dog)]
        assert self.cached(first, [make_image(4, 4, dog), make_image(8, 4, cat)]) == 4
        assert self.cached(first, first) == 16

    @pytest.mark.parametrize(("start", "found"), [(3, 16), (8, 16), (9, 8), (12, 12)])
    def test_what_is_found_ends_at_no_place_within_an_image(self, start, found):
        image = [make_image(start, 8, b"a cat")]
        assert self.cached(image, image) == found
