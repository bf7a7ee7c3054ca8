from __future__ import annotations

from itertools import count

import pytest

from server.engine.policy.blocks.block_manager import BlockManager
from server.engine.policy.blocks.layer_kinds import KVKind, split_blocks
from tests.engine.builders import make_sequence

LIMITS = {
    "block_size": 4,
    "context": 40,
    "max_model_len": 100,
    "max_num_seqs": 8,
    "max_num_batched_tokens": 16,
}


@pytest.mark.parametrize(
    ("window", "position", "first"),
    [(None, 1000, 0), (8, 0, 0), (8, 10, 0), (8, 11, 1), (8, 15, 2), (1, 4, 1), (3, 5, 0)],
)
def test_a_token_sees_as_many_positions_as_the_window_itself_included(window, position, first):
    assert KVKind(window, 2).first_block(position, 4) == first


@pytest.mark.parametrize("window", range(1, 12))
def test_a_share_holds_a_window_and_the_token_before_it_wherever_blocks_begin(window):
    kind = KVKind(window, 2)
    spans = [
        position // 4 - max(0, position - window) // 4 + 1 for position in range(window, window + 8)
    ]
    assert max(spans) == kind.share(4)


@pytest.mark.parametrize(("window", "chunk"), [(1, 1), (3, 5), (8, 8), (7, 2), (12, 16)])
def test_one_sequence_needs_a_window_and_a_chunk_wherever_they_begin(window, chunk):
    kind = KVKind(window, 2)
    for position in range(100):
        span = (position + chunk - 1) // 4 - kind.first_block(position, 4) + 1
        assert span <= kind.blocks_for_one(chunk, 200, 4)
    assert kind.blocks_for_one(chunk, 4, 4) == 1, "no more than all of it"
    assert KVKind(None, 2).blocks_for_one(chunk, 200, 4) == 50


def test_layers_of_one_kind_get_the_whole_budget():
    assert split_blocks(103, [(None, 10)], **LIMITS) == (KVKind(None, 10),)
    assert split_blocks(103, [(8, 10)], **LIMITS) == (KVKind(8, 10),)


def test_windowed_layers_get_what_as_many_sequences_need_as_fit():
    """A sequence takes 10 blocks in 2 layers and 3 in 4, a step's chunks 4 in 4; padding 6."""
    layers = [(None, 2), (8, 4)]
    for num_seqs in (1, 2, 7):
        cost = num_seqs * (10 * 2 + 3 * 4) + 4 * 4 + 6
        whole, windowed = split_blocks(cost, layers, **LIMITS)
        assert whole == KVKind(None, 1 + 10 * num_seqs)
        assert windowed == KVKind(8, 1 + 3 * num_seqs + 4)
        assert split_blocks(cost + 31, layers, **LIMITS)[1] == windowed


def test_what_all_sequences_do_not_need_goes_to_the_layers_that_keep_everything():
    whole, windowed = split_blocks(10_000, [(None, 2), (8, 4)], **LIMITS)
    assert windowed == KVKind(8, 1 + 3 * 8 + 4)
    assert whole.num_blocks == (10_000 - 4 * 29) // 2


def test_sequences_shorter_than_the_window_need_no_more_of_it_than_they_are_long():
    limits = LIMITS | {"context": 12, "max_model_len": 12}
    whole, windowed = split_blocks(10_000, [(None, 1), (100, 1)], **limits)
    assert windowed == KVKind(100, 1 + 3 * 8 + 4)
    assert whole.num_blocks == 10_000 - 29


@pytest.mark.parametrize("budget", [40, 100, 1000])
def test_one_sequence_can_always_run_in_the_windowed_layers(budget):
    limits = LIMITS | {"context": 4}
    *_, windowed = split_blocks(budget, [(None, 1), (40, 1)], **limits)
    assert windowed.num_blocks > windowed.blocks_for_one(16, 100, 4)


def test_a_budget_too_small_for_anything_is_refused():
    """A window and a chunk are 7 blocks, with padding 8 in each of 4 layers."""
    layers = [(None, 2), (8, 4)]
    assert split_blocks(36, layers, **LIMITS) == (KVKind(None, 2), KVKind(8, 8))
    with pytest.raises(ValueError, match=r"35 KV blocks.* those with a window need 32"):
        split_blocks(35, layers, **LIMITS)


class TestGemma27B:
    """62 layers, 52 of them with a window of 1,024 tokens, in blocks of 128."""

    def num_admitted(self, kinds, context):
        """Sequences of `context` tokens that are held at once, computed in chunks of 2,048."""
        blocks = BlockManager(kinds, 128, prefix_caching=False)
        return next(n for n in count() if not self.compute(blocks, context))

    def compute(self, blocks, context):
        seq = make_sequence(range(context))
        if not blocks.allocate(seq, context, max_chunk=2048):
            return False
        while seq.num_computed_tokens < context:
            num_tokens = blocks.grow(seq, min(2048, context - seq.num_computed_tokens))
            if not num_tokens:
                return False
            seq.num_computed_tokens += num_tokens
            blocks.slide(seq, seq.num_computed_tokens)
        return True

    @pytest.mark.parametrize("budget", [20_000, 60_000, 250_000])
    @pytest.mark.parametrize(("context", "ratio"), [(4096, 2.4), (8192, 3.4)])
    def test_far_more_sequences_fit_than_if_all_layers_kept_everything(
        self, budget, context, ratio
    ):
        kinds = split_blocks(
            budget,
            [(None, 10), (1024, 52)],
            block_size=128,
            context=context,
            max_model_len=131_072,
            max_num_seqs=1024,
            max_num_batched_tokens=2048,
        )
        assert 10 * kinds[0].num_blocks + 52 * kinds[1].num_blocks <= budget
        whole = self.num_admitted((KVKind(None, budget // 62),), context)
        assert self.num_admitted(kinds, context) >= ratio * whole > 0
