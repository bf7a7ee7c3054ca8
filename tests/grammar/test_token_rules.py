"""Rules about tokens: the masks that follow from them, against a plain reading of the rule."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.grammar.matcher import Matcher
from server.grammar.token_rules import only_tokens, without_sequences
from server.link.sampling import Grammar
from tests.grammar.vocabularies import CALL, EOS, VOCAB_SIZE, allowed, make_compiler

_SEQUENCES = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=4)


def compiled(grammar: Grammar) -> Matcher:
    return make_compiler().compile(grammar)


@pytest.mark.parametrize(
    "token_ids", [[97], [5, 6, 7, 99, CALL], [VOCAB_SIZE - 1, 0, 258], list(range(200))]
)
def test_only_the_tokens_of_the_list_are_allowed_at_any_time(token_ids):
    matcher = compiled(only_tokens([*token_ids, EOS], [EOS]))
    for token_id in [token_ids[0], token_ids[-1]] * 3:
        assert allowed(matcher) == {*token_ids, EOS}
        matcher.take([token_id])
        assert not matcher.error


def test_a_list_without_an_end_token_leaves_only_end_tokens_to_be_withheld():
    assert allowed(compiled(only_tokens([5, 7], [EOS]))) == {5, 7, EOS}


@settings(max_examples=100, deadline=None)
@given(forbidden=_SEQUENCES, text=st.lists(st.integers(0, 3), max_size=10))
def test_a_token_is_forbidden_where_it_completes_a_sequence(forbidden, text):
    matcher = compiled(without_sequences(forbidden))
    generated: list[int] = []
    for token_id in [*text, 0]:
        completing = {
            sequence[-1]
            for sequence in forbidden
            if generated[len(generated) - len(sequence) + 1 :] == sequence[:-1]
            and len(generated) >= len(sequence) - 1
        }
        assert allowed(matcher) == set(range(VOCAB_SIZE)) - completing
        if token_id in completing:
            return
        matcher.take([token_id])
        assert not matcher.error
        generated.append(token_id)


def test_a_long_answer_takes_no_longer_per_token():
    """Items of the parser, not time: a right-recursive rule would keep one per token."""
    matcher = compiled(without_sequences([[1, 2], [3]]))
    matcher.take([1, 1, 5] * 3000)
    assert not matcher.error
    assert allowed(matcher) == set(range(VOCAB_SIZE)) - {3}
