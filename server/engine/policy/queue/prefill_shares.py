"""How a step's tokens are divided among prompts: a part of them goes to the shortest.

What is left of the part, and the rest, goes to prompts in the order of their turns. So a small
request begins next to long prompts, and the oldest long prompt always goes on. It counts tokens
only; it knows neither slots nor blocks.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from server.engine.policy.sequences.sequence import Sequence

# The shortest prompts get one token of so many; never more, so that short ones starve nobody.
_SHORT_PART = 2
# Prompts under way hold blocks that nobody else can use yet. A prompt that ends in its first step
# holds them for no longer than it must.
_MAX_UNDER_WAY = 4
# So many waiting sequences are compared, because a step must not take longer with a longer queue.
_MAX_COMPARED = 256


def num_tokens_to_compute(seq: Sequence) -> int:
    """Tokens of `seq` until its next token; of a sequence that waits, as many as are expected."""
    return max(1, seq.num_uncomputed_tokens - (0 if seq.block_tables else seq.num_expected_tokens))


def shares_of_shortest(
    budget: int, under_way: Iterable[Sequence], waiting: Iterable[Sequence], *, reserved: int = 0
) -> dict[Sequence, int]:
    """Tokens set aside for the shortest prompts, of those under way and of those that wait.

    Of equals, the one under way comes first: to finish it costs no further blocks. At least
    `reserved` of the budget are left.
    """
    running = list(under_way)
    candidates = [*running, *islice(waiting, _MAX_COMPARED)]
    left, room = (
        max(0, min(budget // _SHORT_PART, budget - reserved)),
        _MAX_UNDER_WAY - len(running),
    )
    has_begun = set(running)
    shares: dict[Sequence, int] = {}
    for seq in sorted(candidates, key=num_tokens_to_compute):
        if not left:
            break
        wanted = num_tokens_to_compute(seq)
        stays = seq not in has_begun and wanted > left
        if stays and room <= 0:
            continue
        room -= stays
        shares[seq] = min(left, wanted)
        left -= shares[seq]
    return shares
