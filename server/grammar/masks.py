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

from server.grammar.matcher import Matcher

_WORD = 32


@dataclass(frozen=True, slots=True)
class MaskedRow:
    """A row's matcher, and the tokens that it has not taken yet.

    `withheld` tokens are not allowed while any other token is.
    """

    place: int
    matcher: Matcher
    new_token_ids: Sequence[int]
    withheld: Collection[int] = ()


class MaskWriter:
    """Writes masks of `vocab_size` tokens. One thread may use it."""

    def __init__(self, vocab_size: int) -> None:
        self._num_words = -(-vocab_size // _WORD)
        self._executor = LLExecutor(max(1, (os.cpu_count() or 1) - 1))

    def write(self, rows: Sequence[MaskedRow], allowed_SW: np.ndarray) -> None:
        """Take each row's new tokens and set its words of `allowed_SW`.

        A row whose matcher ends with an error keeps its words.
        """
        for row in rows:
            row.matcher.take(row.new_token_ids)
        rows = _sound(rows)
        if not rows:
            return
        bits_SW = np.zeros((len(rows), self._num_words), np.uint32)
        self._executor.unsafe_compute_mask_ptr(
            [(row.matcher.inner, i) for i, row in enumerate(rows)],
            bits_SW.ctypes.data,
            self._num_words * bits_SW.itemsize,
            len(rows),
        )
        for row, bits_W in zip(rows, bits_SW, strict=True):
            row.matcher.note_error()
            _withhold(bits_W, row.withheld)
            if not row.matcher.error and not bits_W.any():
                row.matcher.error = "the grammar allows no token of this model's vocabulary next"
            if not row.matcher.error:
                allowed_SW[row.place] = 0
                allowed_SW[row.place, : self._num_words] = bits_W


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
