"""Whatever the pieces, the text that comes out is the one a search of the whole would give."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.api.streams.stop_strings import StopMatcher

LETTERS = st.text("ab🙂", max_size=12)
STOPS = st.lists(st.text("ab🙂", min_size=1, max_size=4), max_size=3).map(tuple)


def run(
    pieces: list[str], stop: tuple[str, ...], *, include: bool = False
) -> tuple[str, str | None]:
    """The released text and the stop string found; a matched stream gets no more text."""
    matcher = StopMatcher(stop, include=include)
    released = ""
    for piece in pieces:
        released += matcher.feed(piece)
        if matcher.matched is not None:
            return released, matcher.matched
    return released + matcher.flush(), None


def test_an_empty_stop_string_stops_nothing():
    assert run(["a", "b"], ("",)) == ("ab", None)
    assert run(["a", "b"], ("", "b")) == ("a", "b")


def expected(text: str, stop: tuple[str, ...], *, include: bool) -> tuple[str, str | None]:
    """By definition: the first end of any occurrence, the longest that ends there."""
    for end in range(len(text) + 1):
        endings = [string for string in stop if text[:end].endswith(string)]
        if endings:
            longest = max(endings, key=len)
            return text[: end if include else end - len(longest)], longest
    return text, None


@given(LETTERS, STOPS, st.lists(st.integers(0, 12)), st.booleans())
def test_the_pieces_do_not_matter(text, stop, cuts, include):
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(bounds)]
    assert run(pieces, stop, include=include) == expected(text, stop, include=include)


@pytest.mark.parametrize("cut", range(len("one END two") + 1))
def test_a_stop_string_is_found_across_any_split(cut):
    text = "one END two"
    assert run([text[:cut], text[cut:]], ("END",)) == ("one ", "END")


def test_what_may_become_a_stop_string_is_held_back_and_no_more():
    matcher = StopMatcher(("\n\nUser:",))
    assert matcher.feed("Hello\n") == "Hello"
    assert matcher.feed("\nUs") == ""
    assert matcher.feed("age") == "\n\nUsage"


def test_a_held_beginning_is_released_when_the_text_ends():
    matcher = StopMatcher(("STOP",))
    assert matcher.feed("ST") == ""
    assert matcher.flush() == "ST"
    assert matcher.flush() == ""


def test_a_beginning_inside_a_held_beginning_is_not_lost():
    assert run(["aa", "ab"], ("aab",)) == ("a", "aab")


def test_the_match_that_ends_first_wins_over_the_order_of_the_list():
    assert run(["abcd"], ("cd", "bc")) == ("a", "bc")


def test_of_two_that_end_together_the_longer_wins():
    assert run(["xabc"], ("c", "abc")) == ("x", "abc")


def test_the_stop_string_can_be_kept():
    assert run(["a END b"], ("END",), include=True) == ("a END", "END")


def test_without_stop_strings_nothing_is_held():
    matcher = StopMatcher(())
    assert matcher.feed("anything") == "anything"
    assert matcher.flush() == ""
    assert matcher.matched is None
