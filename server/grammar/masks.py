"""Which tokens may come next, as bits, for many choices at once.

The rows of a step are computed in parallel, by threads that need no interpreter lock. Knows neither
why a row runs nor what the device does with the bits.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from llguidance import LLExecutor

from server.grammar.grammar_error import SUBJECT
from server.grammar.matcher import Matcher

_WORD = 32
_MAX_THREADS = 32


@dataclass(frozen=True, slots=True)
class MaskedRow:
    """A row's matcher, the tokens that it has not taken yet, and where its words go.

    `withheld` tokens are not allowed while any other token is.
    """

    allowed_W: np.ndarray
    matcher: Matcher
    new_token_ids: Sequence[int]
    withheld: Collection[int] = ()


class MaskWriter:
    """Writes masks of `vocab_size` tokens. One thread may use it."""

    def __init__(self, vocab_size: int) -> None:
        self._num_words = -(-vocab_size // _WORD)
        num_threads = max(1, min(_MAX_THREADS, (os.cpu_count() or 1) - 1))
        # One thread would gain nothing, and a busy machine wakes it milliseconds late.
        self._executor = LLExecutor(num_threads) if num_threads > 1 else None

    def write(self, rows: Sequence[MaskedRow]) -> None:
        """Take each row's new tokens and set its words.

        A row whose matcher ends with an error keeps its words.
        """
        for row in rows:
            row.matcher.take(row.new_token_ids)
        rows = _sound(rows)
        if not rows:
            return
        bits_SW = np.zeros((len(rows), self._num_words), np.uint32)
        self._compute([row.matcher for row in rows], bits_SW)
        for row, bits_W in zip(rows, bits_SW, strict=True):
            row.matcher.note_error()
            _withhold(bits_W, row.withheld)
            if not row.matcher.error and not bits_W.any():
                row.matcher.error = f"{SUBJECT} allows no token of this model's vocabulary next"
            if not row.matcher.error:
                row.allowed_W[:] = 0
                row.allowed_W[: self._num_words] = bits_W

    def _compute(self, matchers: Sequence[Matcher], bits_SW: np.ndarray) -> None:
        num_bytes, begin = self._num_words * bits_SW.itemsize, bits_SW.ctypes.data
        if self._executor is None or len(matchers) == 1:
            for i, matcher in enumerate(matchers):
                matcher.inner.unsafe_compute_mask_ptr(begin + i * num_bytes, num_bytes)
            return
        self._executor.unsafe_compute_mask_ptr(
            [(matcher.inner, i) for i, matcher in enumerate(matchers)],
            begin,
            num_bytes,
            len(matchers),
        )


def _sound(rows: Iterable[MaskedRow]) -> list[MaskedRow]:
    return [row for row in rows if not row.matcher.error]


def _withhold(bits_W: np.ndarray, token_ids: Collection[int]) -> None:
    """Clear the bits of these tokens, unless no bit would be left."""
    if not token_ids:
        return
    rest_W = bits_W.copy()
    for token_id in token_ids:
        rest_W[token_id // _WORD] &= ~np.uint32(1 << token_id % _WORD)
    if rest_W.any():
        bits_W[:] = rest_W
