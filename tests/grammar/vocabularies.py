"""A vocabulary small enough to read: every byte, pieces of JSON, and two special tokens."""

from __future__ import annotations

import random
from functools import cache

import numpy as np

from server.grammar.compiler import Compiler
from server.grammar.masks import MaskedRow, MaskWriter
from server.grammar.matcher import Matcher
from server.link.frames import Vocabulary

PIECES = [b'{"', b'":', b'", "', b"true", b"null", b"123", b" the", b"ab", b"}]", b"[]", b"\n  "]
# What no byte of a text is: an end token, and a token that opens a call.
SPECIAL = [b"<end>", b"<call>"]
TOKENS = [*(bytes([byte]) for byte in range(256)), *PIECES, *SPECIAL]
EOS, CALL = len(TOKENS) - 2, len(TOKENS) - 1
# Not a multiple of 32, and more than there are tokens.
VOCAB_SIZE = 301
NUM_WORDS = 12


@cache
def make_compiler() -> Compiler:
    return Compiler(Vocabulary(tokens=TOKENS, special_token_ids=[EOS, CALL]), VOCAB_SIZE, (EOS,))


def ids(text: str) -> list[int]:
    """A byte per token; special tokens by their texts."""
    special = {"<end>": EOS, "<call>": CALL}
    return [special[text]] if text in special else list(text.encode())


def text_of(token_ids: list[int]) -> str:
    return b"".join(TOKENS[token_id] for token_id in token_ids if token_id != EOS).decode()


def allowed(matcher: Matcher, *, new=(), withheld=()) -> set[int]:
    """The ids that a matcher allows after it has taken `new`."""
    words = np.full((2, NUM_WORDS), 0xFFFFFFFF, np.uint32)
    MaskWriter(VOCAB_SIZE).write([MaskedRow(words[1], matcher, new, withheld)])
    assert (words[0] == 0xFFFFFFFF).all()
    return set(np.flatnonzero(np.unpackbits(words[1].view(np.uint8), bitorder="little")).tolist())


def generate(matcher: Matcher, seed: int, max_tokens: int = 4000, *, is_greedy=False) -> list[int]:
    """What a model of random logits writes under a grammar, up to the end token.

    The longer the text, the more often it takes what ends things: random texts come to an end.
    A greedy one takes the same token wherever it may, at first.
    """
    rng, writer, token_ids = random.Random(seed), MaskWriter(VOCAB_SIZE), []
    order = list(range(VOCAB_SIZE))
    rng.shuffle(order)
    rank = {token_id: place for place, token_id in enumerate(order)}
    closing = [EOS, *(ord(c) for c in '}]",')]
    words = np.zeros((1, NUM_WORDS), np.uint32)
    while len(token_ids) < max_tokens and token_ids[-1:] != [EOS]:
        writer.write([MaskedRow(words[0], matcher, token_ids[-1:])])
        assert not matcher.error, matcher.error
        bits = np.unpackbits(words.view(np.uint8), bitorder="little")
        options = np.flatnonzero(bits).tolist()
        ends = [token_id for token_id in closing if token_id in set(options)]
        if ends and rng.random() < len(token_ids) / 100:
            token_ids.append(ends[0])
        elif is_greedy and len(token_ids) < 60:
            token_ids.append(min(options, key=rank.get))
        else:
            token_ids.append(rng.choice(options))
    return token_ids
