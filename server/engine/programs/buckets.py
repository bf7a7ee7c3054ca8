"""The closed set of sizes that steps are compiled for, and the choice of a size for a batch.

Knows counts of tokens and rows, but neither arrays nor what a program computes.
"""

from __future__ import annotations

from dataclasses import dataclass

from server.engine.policy.step import ScheduledBatch


@dataclass(frozen=True, slots=True, order=True)
class Bucket:
    """A compiled size: `num_tokens` on the ragged token axis, and `num_rows` sequences.

    In a decode bucket the two are equal, because every row has one token.
    """

    num_tokens: int
    num_rows: int
    decode_only: bool


class Ladder:
    """The closed set of buckets: rows of decodes and tokens of mixed steps, in powers of two.

    Each size is `growth` times the one before, up to what the limits ask for. Few sizes mean few
    programs to compile; many sizes mean little padding. Without `widest_decode`, the smallest mixed
    bucket also runs the batches of decodes that have as many tokens as it holds.
    """

    def __init__(
        self,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        smallest_mixed: int,
        smallest_decode: int = 2,
        growth: int = 2,
        widest_decode: bool = True,
    ) -> None:
        self.max_num_batched_tokens = max_num_batched_tokens
        decode = _powers(smallest_decode, max(smallest_decode, max_num_seqs), growth)
        rows = decode[-1]
        mixed = _powers(max(smallest_mixed, rows), max(max_num_batched_tokens, rows), growth)
        self._mixed = [Bucket(size, rows, decode_only=False) for size in mixed]
        self._decode = [
            Bucket(size, size, decode_only=True)
            for size in decode
            if widest_decode or size < mixed[0]
        ]

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """The decode buckets, then the mixed buckets, each sorted by size."""
        return (*self._decode, *self._mixed)

    @property
    def row_counts(self) -> tuple[int, ...]:
        """The numbers of rows that a step may have, each once."""
        return tuple(sorted({bucket.num_rows for bucket in self.buckets}))

    def choose(self, batch: ScheduledBatch) -> Bucket:
        """The smallest bucket that holds every rank's part of the batch."""
        only_decodes = all(row.is_decode for row in batch.rows)
        buckets = self.buckets if only_decodes else self._mixed
        return next(b for b in buckets if b.num_tokens >= batch.num_tokens_of_fullest_rank)


def exact_ladder(max_num_seqs: int, max_num_batched_tokens: int) -> Ladder:
    """One decode bucket and one mixed bucket, which is full with `max_num_batched_tokens`.

    So the size of a step says nothing about what else runs.
    """
    rows = _power_of_two(max_num_seqs)
    budget = _power_of_two(max(rows, max_num_batched_tokens))
    return Ladder(rows, budget, smallest_mixed=budget, smallest_decode=rows)


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
