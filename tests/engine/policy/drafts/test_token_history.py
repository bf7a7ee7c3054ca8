"""Prompt lookup against a search of the token list; and the bytes that could mislead it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.engine.policy.drafts.token_history import MATCH_LENGTHS, TokenHistory

# Few values, so that tokens repeat; some whose bytes look like the end and start of others.
tokens = st.lists(st.sampled_from([0, 1, 256, 65536, 16777216]), max_size=40)


def history_of(token_ids):
    history = TokenHistory()
    history.extend(token_ids)
    return history


def searched(token_ids, count):
    """The same by lists: the longest of the lengths, its latest earlier place, copied on."""
    for length in MATCH_LENGTHS:
        newest = token_ids[len(token_ids) - length :]
        places = [i for i in range(len(token_ids) - length) if token_ids[i : i + length] == newest]
        if places and len(newest) == length:
            text = list(token_ids)
            for i in range(count):
                text.append(text[places[-1] + length + i])
            return text[len(token_ids) :]
    return []


@given(tokens, st.integers(1, 9))
def test_the_continuation_is_that_of_the_latest_longest_match(token_ids, count):
    assert history_of(token_ids).continuation(count) == searched(token_ids, count)


@given(tokens, st.integers(0, 40))
def test_tokens_may_come_in_parts(token_ids, cut):
    history = history_of(token_ids[:cut])
    history.extend(token_ids)
    assert len(history) == len(token_ids)
    assert history.continuation(5) == history_of(token_ids).continuation(5)


def test_what_was_edited_goes_on_as_the_original_did():
    original = [*range(10, 30)]
    assert history_of([*original, 99, 13, 14, 15]).continuation(4) == [16, 17, 18, 19]


def test_a_loop_goes_on():
    assert history_of([5, 6, 7, 5, 6, 7, 5, 6]).continuation(5) == [7, 5, 6, 7, 5]


def test_new_text_has_no_continuation():
    assert history_of([1, 2, 3, 4, 5]).continuation(3) == []
    assert history_of([]).continuation(3) == []
    assert history_of([1]).continuation(3) == []


def test_bytes_of_two_tokens_are_no_token():
    assert history_of([0x00000100, 0x00000200, 7, 0x00010000, 0x00020000]).continuation(1) == []
