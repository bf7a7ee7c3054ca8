"""The closed set of sizes that steps are compiled for, and the choice of a size for a batch.

Knows counts of tokens and rows, but neither arrays nor what a program computes.
"""

from __future__ import annotations

from dataclasses import dataclass

from server.engine.policy.sequences.step import ScheduledBatch
from server.engine.policy.speculation import DraftRoom

# Drafts that every row of a verify bucket may have at the same time.
_FEW_DRAFTS = 3


@dataclass(frozen=True, slots=True, order=True)
class Bucket:
    """A compiled size: `num_tokens` on the ragged token axis, and `num_rows` sequences.

    In a decode bucket the two are equal, because every row has one token. In a verify bucket the
    rows are decodes with at most `num_drafts` drafts each; it draws a token at every place.
    """

    num_tokens: int
    num_rows: int
    decode_only: bool
    num_drafts: int = 0

    @property
    def num_draws(self) -> int:
        """The number of places for which the step computes logits and draws a token."""
        return self.num_tokens if self.num_drafts else self.num_rows

    @property
    def draws_everywhere(self) -> bool:
        """Whether each token has its own draw. A mixed bucket may have as many rows as tokens, and
        still draws for the last token of each row.
        """
        return self.decode_only or self.num_drafts > 0

    @property
    def row_tokens(self) -> int | None:
        """The most tokens of a row; None where a row may have all."""
        if self.decode_only:
            return 1
        return 1 + self.num_drafts if self.num_drafts else None


class Ladder:
    """The closed set of buckets: rows of decodes and tokens of mixed steps, in powers of two.

    Each size is `growth` times the one before, up to what the limits ask for. Few sizes mean few
    programs to compile; many sizes mean little padding. With `num_drafts`, each size of decodes has
    a verify bucket too, of up to `most_verified` tokens.
    """

    def __init__(
        self,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        smallest_mixed: int,
        smallest_decode: int = 2,
        growth: int = 2,
        num_drafts: int = 0,
        most_verified: int = 0,
    ) -> None:
        self.max_num_batched_tokens = max_num_batched_tokens
        decode = _powers(smallest_decode, max(smallest_decode, max_num_seqs), growth)
        rows = decode[-1]
        mixed = _powers(max(smallest_mixed, rows), max(max_num_batched_tokens, rows), growth)
        self._mixed = [Bucket(size, rows, decode_only=False) for size in mixed]
        self._decode = [Bucket(size, size, decode_only=True) for size in decode]
        verify = [(_verified(size, num_drafts), size) for size in decode] if num_drafts else []
        self._verify = [
            Bucket(tokens, size, decode_only=False, num_drafts=min(num_drafts, tokens - 1))
            for tokens, size in verify
            if tokens <= min(most_verified, max_num_batched_tokens)
        ]

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """The decode buckets, then the mixed buckets, then the verify buckets, each by size."""
        return (*self._decode, *self._mixed, *self._verify)

    @property
    def widest(self) -> int:
        """The most rows of a step."""
        return self._mixed[-1].num_rows

    @property
    def draw_counts(self) -> tuple[int, ...]:
        """The numbers of places that a step may draw tokens for, each once."""
        return tuple(sorted({bucket.num_draws for bucket in self.buckets}))

    @property
    def draft_rooms(self) -> tuple[DraftRoom, ...]:
        """What steps with drafts have room for."""
        return tuple(DraftRoom(bucket.num_rows, bucket.num_tokens) for bucket in self._verify)

    def choose(self, batch: ScheduledBatch) -> Bucket:
        """The smallest bucket that holds every rank's part of the batch."""
        num_tokens = batch.num_tokens_of_fullest_rank
        if batch.has_drafts:
            num_rows = len(batch.rows)
            return next(
                b for b in self._verify if b.num_rows >= num_rows and b.num_tokens >= num_tokens
            )
        only_decodes = all(row.is_decode for row in batch.rows)
        buckets = self._decode if only_decodes else self._mixed
        return next(b for b in buckets if b.num_tokens >= num_tokens)


def exact_ladder(max_num_seqs: int, max_num_batched_tokens: int) -> Ladder:
    """One decode bucket and one mixed bucket, which is full with `max_num_batched_tokens`.

    So the size of a step says nothing about what else runs.
    """
    rows = _power_of_two(max_num_seqs)
    budget = _power_of_two(max(rows, max_num_batched_tokens))
    return Ladder(rows, budget, smallest_mixed=budget, smallest_decode=rows)


def _verified(num_rows: int, num_drafts: int) -> int:
    """Tokens of a verify bucket: all drafts of one row, or a few of every row."""
    return max(num_rows * (1 + min(num_drafts, _FEW_DRAFTS)), 1 + num_drafts)


def _powers(first: int, last: int, growth: int) -> list[int]:
    """Powers of two from `first` to `last`, both rounded up, each `growth` times the one before."""
    size, end = _power_of_two(first), _power_of_two(last)
    sizes = [size]
    while size < end:
        size = min(size * growth, end)
        sizes.append(size)
    return sizes


def _power_of_two(least: int) -> int:
    """The smallest power of two that is at least `least`."""
    return 1 << (least - 1).bit_length()
