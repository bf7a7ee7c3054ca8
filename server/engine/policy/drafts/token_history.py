"""Prompt lookup: what followed the last time that a sequence's newest tokens stood in it.

Text that repeats itself (edited code, summaries, quotations) is so continued without a model
(Saxena, "Prompt Lookup Decoding", 2023). Tokens are kept as bytes, because Python searches bytes at
the speed of memory. Knows neither requests nor whether the continuation is of any use.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

# How many of the newest tokens must stand elsewhere too; the longest is tried first.
MATCH_LENGTHS = (8, 5, 3, 2)
_WIDTH = array("I").itemsize


class TokenHistory:
    """All tokens of a sequence so far."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def __len__(self) -> int:
        return len(self._bytes) // _WIDTH

    def extend(self, token_ids: Sequence[int]) -> None:
        """Take the tokens of `token_ids` that are not known yet; it begins with those known."""
        self._bytes += array("I", token_ids[len(self) :]).tobytes()

    def continuation(self, count: int) -> list[int]:
        """`count` tokens that may come next; none where the newest tokens are new.

        The latest place counts. Where it reaches the end, the continuation goes on with itself.
        """
        for length in MATCH_LENGTHS:
            first = self._after_last(length)
            if first:
                known = array("I", self._bytes[first * _WIDTH : (first + count) * _WIDTH])
                period = len(known)
                return [known[i % period] for i in range(count)]
        return []

    def _after_last(self, length: int) -> int:
        """The index after the last earlier place of the newest `length` tokens; 0 for none."""
        if length >= len(self):
            return 0
        newest = self._bytes[-length * _WIDTH :]
        end = len(self._bytes) - _WIDTH
        while (start := self._bytes.rfind(newest, 0, end)) >= 0:
            if start % _WIDTH == 0:
                return start // _WIDTH + length
            end = start + len(newest) - 1  # Bytes of several tokens that look like one.
        return 0
