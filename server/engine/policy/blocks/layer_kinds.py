"""Kinds of layers, by how far back they look, and how many KV blocks each is given.

Layers of one kind keep the KV of the same positions, so they share block tables; ids of blocks are
a kind's own. Arithmetic only: it knows neither who holds a block nor what is in it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KVKind:
    """Layers in which a token sees the last `window` positions, itself included; None: all.

    `num_blocks` is per layer and counts block 0, which takes the writes of padding.
    """

    window: int | None
    num_blocks: int

    def first_block(self, position: int, block_size: int) -> int:
        """The first block that the token at `position`, or any after it, sees."""
        return max(0, position - self._span + 1) // block_size

    def share(self, block_size: int) -> int:
        """The most blocks that a sequence needs to go on by one token, its last one unread."""
        return -(-self._span // block_size) + 1

    def blocks_at(self, context: int, block_size: int) -> int:
        """What a sequence of `context` tokens holds."""
        return min(self.share(block_size), -(-context // block_size))

    def blocks_for_one(self, max_chunk: int, max_num_tokens: int, block_size: int) -> int:
        """What a sequence of `max_num_tokens` must be able to hold to run in such chunks."""
        in_window = -(-(self._span + max_chunk) // block_size) + 1
        return min(in_window, -(-max_num_tokens // block_size))

    @property
    def _span(self) -> int:
        return sys.maxsize if self.window is None else self.window


def split_blocks(
    budget: int,
    layers: Sequence[tuple[int | None, int]],
    *,
    block_size: int,
    context: int,
    max_model_len: int,
    max_num_seqs: int,
    max_num_batched_tokens: int,
) -> tuple[KVKind, ...]:
    """Kinds for `layers`, (window, how many) each, from a budget of blocks of a single layer.

    A layer whose blocks are larger counts as several.
    As many sequences of `context` tokens fit as the budget allows, `max_num_seqs` at most. Kinds
    with a window get what those need; the first kind, the one without if there is one, the rest.
    Raises ValueError where that is nothing.
    """

    def num_blocks(window: int | None, num_seqs: int) -> int:
        kind = KVKind(window, 0)
        each = kind.blocks_at(context, block_size)
        if window is None:
            return 1 + num_seqs * each
        # All chunks of a step together exceed the windows by no more than this.
        chunks = -(-max_num_batched_tokens // block_size)
        one = kind.blocks_for_one(max_num_batched_tokens, max_model_len, block_size)
        return 1 + max(num_seqs * each + chunks, one)

    def fits(num_seqs: int) -> bool:
        return sum(count * num_blocks(window, num_seqs) for window, count in layers) <= budget

    num_seqs = next((n for n in range(max_num_seqs, 0, -1) if fits(n)), 0)
    (first, num_first), *others = layers
    kinds = [KVKind(window, num_blocks(window, num_seqs)) for window, _ in others]
    taken = sum(count * kind.num_blocks for (_, count), kind in zip(others, kinds, strict=True))
    left = (budget - taken) // num_first
    if left < 2:
        raise ValueError(
            f"{budget} KV blocks, all layers together, are too few: those with a window need "
            f"{taken}, each other one 2 or more; give KV more memory or lower "
            "max_num_batched_tokens"
        )
    return KVKind(first, left), *kinds
