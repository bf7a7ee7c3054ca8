"""The words of many rows at once: the same by several threads, by none, and row by row."""

from __future__ import annotations

import numpy as np
import pytest
from llguidance import LLExecutor

from server.grammar.masks import MaskedRow, MaskWriter
from server.link.sampling import Grammar
from tests.grammar.vocabularies import NUM_WORDS, VOCAB_SIZE, allowed, make_compiler

CHOICES = [Grammar("regex", each) for each in ("[a-f]+", "x|yz", "[0-9]{3}", "(ab)*")]


@pytest.mark.parametrize("executor", [None, LLExecutor(3)], ids=["no threads", "threads"])
def test_every_row_has_its_own_words_whoever_computes_them(executor):
    writer = MaskWriter(VOCAB_SIZE)
    writer._executor = executor
    words = np.zeros((len(CHOICES), NUM_WORDS), np.uint32)
    matchers = [make_compiler().compile(grammar) for grammar in CHOICES]
    writer.write(
        [MaskedRow(row, matcher, ()) for row, matcher in zip(words, matchers, strict=True)]
    )
    found = [
        set(np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist())
        for row in words
    ]
    assert found == [allowed(make_compiler().compile(grammar)) for grammar in CHOICES]
    assert len({*map(frozenset, found)}) == len(CHOICES)
