"""Token events in, deltas out: text, stop strings, stop tokens, log probabilities."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.api.requests.generation import Sampling
from server.api.streams.choice import Choice, token_logprob
from server.api.tokenizers.tokenizer import Tokenizer
from server.link.frames import TokenEvent, TokenLogprobs
from tests.api.fakes import logprobs_of, small_pretrained

SMALL = Tokenizer(small_pretrained())
EOS = 262


def choice(**options: object) -> Choice:
    return Choice(0, Sampling(**options), SMALL)


def event(text: str = "", *extra: int, finish_reason: str | None = None) -> TokenEvent:
    token_ids = [*SMALL.encode(text), *extra]
    return TokenEvent(request_id=1, token_ids=token_ids, finish_reason=finish_reason)


def test_nothing_came_so_there_is_no_delta():
    assert choice().take() is None


def test_events_between_two_takes_are_one_delta():
    it = choice()
    it.advance(event("hello"))
    it.advance(event(" wor"))
    delta = it.take()
    assert delta.text == "hello wor"
    assert delta.token_ids == SMALL.encode("hello") + SMALL.encode(" wor")
    assert delta.finish_reason is None
    assert it.take() is None


def test_tokens_come_while_their_character_is_unfinished():
    it = choice()
    first, second = SMALL.encode("é")
    it.advance(event("", first))
    assert it.take().text == ""
    it.advance(event("", second))
    assert it.take().text == "é"


def test_the_end_token_is_a_token_but_no_text():
    it = choice(skip_special_tokens=False)
    it.advance(event("hello", EOS, finish_reason="stop"))
    delta = it.take()
    assert (delta.text, delta.token_ids[-1]) == ("hello", EOS)
    assert (delta.finish_reason, delta.stop_reason) == ("stop", None)


def test_a_stop_token_that_was_asked_for_is_named():
    (token_id,) = SMALL.encode("!")
    it = choice(stop_token_ids=(token_id,))
    it.advance(event("hello!", finish_reason="stop"))
    delta = it.take()
    assert (delta.text, delta.stop_reason) == ("hello", token_id)


def test_the_text_of_a_stop_token_can_be_kept():
    it = choice(stop_token_ids=tuple(SMALL.encode("!")), include_stop_str_in_output=True)
    it.advance(event("hello!", finish_reason="stop"))
    assert it.take().text == "hello!"


def test_a_last_token_for_length_is_text():
    it = choice()
    it.advance(event("hello", finish_reason="length"))
    delta = it.take()
    assert (delta.text, delta.finish_reason, delta.stop_reason) == ("hello", "length", None)


def test_a_stop_string_ends_the_choice_before_the_engine_does():
    it = choice(stop=("wor",))
    it.advance(event("hello wo"))
    assert it.take().text == "hello "
    it.advance(event("rld and more"))
    delta = it.take()
    assert (delta.text, delta.finish_reason, delta.stop_reason) == ("", "stop", "wor")
    assert delta.token_ids == SMALL.encode("r")


def test_what_comes_after_a_stop_string_is_ignored():
    it = choice(stop=("h",))
    it.advance(event("hello", finish_reason="length"))
    it.take()
    num_tokens = it.num_tokens
    it.advance(event("more", finish_reason="length"))
    assert it.take() is None
    assert it.num_tokens == num_tokens


def test_the_stop_string_can_be_kept():
    it = choice(stop=("wor",), include_stop_str_in_output=True)
    it.advance(event("hello world"))
    assert it.take().text == "hello wor"


def test_a_held_beginning_of_a_stop_string_comes_with_the_end():
    it = choice(stop=("world!",))
    it.advance(event("hello world", finish_reason="length"))
    assert it.take().text == "hello world"


def test_an_unfinished_character_comes_with_the_end():
    it = choice()
    it.advance(event("", SMALL.encode("é")[0], finish_reason="length"))
    assert it.take().text == "\ufffd"


def test_stop_strings_do_not_count_before_min_tokens():
    it = choice(stop=("l",), min_tokens=len(SMALL.encode("a l b")))
    it.advance(event("a l b"))
    assert it.take().finish_reason is None
    it.advance(event(" l"))
    delta = it.take()
    assert (delta.text, delta.finish_reason) == (" ", "stop")


@given(st.lists(st.sampled_from("ab🙂 "), min_size=1, max_size=10), st.data())
def test_how_events_are_merged_changes_nothing(letters, data):
    """One token an event, or any grouping of them: the same text, tokens and end."""
    token_ids = [token_id for letter in letters for token_id in SMALL.encode(letter)]

    def outcome(groups: list[list[int]]) -> tuple[str, list[int], object]:
        it = choice(stop=("ab", "🙂 "))
        for group in groups:
            it.advance(event("", *group))
        it.advance(event(finish_reason="length"))
        delta = it.take()
        return delta.text, delta.token_ids, delta.stop_reason

    cuts = sorted(data.draw(st.lists(st.integers(0, len(token_ids)))))
    bounds = [0, *cuts, len(token_ids)]
    groups = [token_ids[start:end] for start, end in itertools.pairwise(bounds)]
    assert outcome(groups) == outcome([[token_id] for token_id in token_ids])


def test_logprobs_run_in_parallel_with_the_tokens():
    it = choice(logprobs=1)
    token_ids = SMALL.encode("hello!")
    logprobs = [logprobs_of(token_id, 1) for token_id in token_ids]
    it.advance(TokenEvent(request_id=1, token_ids=token_ids, logprobs=logprobs))
    delta = it.take()
    assert [entry.token for entry in delta.logprobs] == ["hello", "!"]
    assert [entry.token_id for entry in delta.logprobs] == delta.token_ids


def test_without_logprobs_there_is_no_list():
    it = choice()
    it.advance(event("hello"))
    assert it.take().logprobs is None


def test_a_token_and_its_alternatives_get_text_and_bytes():
    first, _ = SMALL.encode("é")
    (hello,) = SMALL.encode("hello")
    entry = token_logprob(first, TokenLogprobs(-1.0, [(hello, -0.25), (first, -1.0)]), SMALL)
    assert (entry.token, entry.token_bytes, entry.logprob) == ("\ufffd", b"\xc3", -1.0)
    assert [(top.token, top.logprob) for top in entry.top] == [("hello", -0.25), ("\ufffd", -1.0)]


@pytest.mark.parametrize("finish_reason", ["abort", "length"])
def test_an_end_without_tokens(finish_reason):
    it = choice()
    it.advance(event(finish_reason=finish_reason))
    delta = it.take()
    assert (delta.text, delta.token_ids, delta.finish_reason) == ("", [], finish_reason)
