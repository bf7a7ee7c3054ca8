"""Reasoning tokens are those that begin before the reasoning ends, however deltas are cut."""

from __future__ import annotations

import pytest

from server.api.streams.reasoning_count import ReasoningCount
from server.api.tool_calls.events import AnswerEnded, ReasoningDelta, TextDelta

PIECES = ["<think>", "\n", "Where", " is", " it", "\n", "</think>", "\n", "Here", ".", ""]
THOUGHT = 5


def counted(*deltas) -> int:
    count = ReasoningCount(lambda token_id: PIECES[token_id].encode())
    for token_ids, events in deltas:
        count.add(token_ids, events)
    return count.num_tokens


END = AnswerEnded("stop", None)


def test_a_whole_answer_in_one_delta():
    events = [ReasoningDelta("Where is it"), TextDelta("Here."), END]
    assert counted((range(11), events)) == THOUGHT


@pytest.mark.parametrize("cut", range(1, 10))
def test_two_deltas_count_as_one(cut):
    before = [ReasoningDelta("Where is it")] if cut > THOUGHT else []
    after = [TextDelta("Here."), END] if before else [ReasoningDelta("Where is it"), TextDelta("H")]
    assert counted((range(cut), before), (range(cut, 11), after)) == THOUGHT


def test_an_answer_without_reasoning_has_none():
    assert counted(([8], [TextDelta("Here")]), ([9], [TextDelta("."), END])) == 0


def test_tokens_after_the_first_content_are_not_looked_at():
    thought = (range(9), [ReasoningDelta("Where is it"), TextDelta("Here")])
    assert counted(thought, ([2, 3, 4], [TextDelta("Where is it")])) == THOUGHT


def test_reasoning_that_is_cut_is_counted_to_its_end():
    assert counted((range(4), [ReasoningDelta("Where is"), AnswerEnded("length", None)])) == 4
