"""Who gets drafts in a step, and how many: room, options that forbid them, and what pays."""

from __future__ import annotations

import pytest

from server.engine.policy.speculation import DraftRoom, Speculation, speculation
from tests.engine.builders import make_sequence

ROOMS = [DraftRoom(2, 8), DraftRoom(8, 32)]
LOOP = [1, 2, 3] * 10


def make_speculation(most=7, rows=(1, 2, 8)):
    """One that has measured steps: those with drafts take as long as those without."""
    made = Speculation(ROOMS, most)
    for num_rows in rows:
        made.note_step(num_rows, 0.02, has_drafts=False)
        made.note_step(num_rows, 0.02, has_drafts=True)
    return made


def looping(**params):
    return make_sequence(LOOP, max_tokens=40, **params)


def learn(seq, gain):
    """Let a sequence's drafts have gained this much."""
    make_speculation().choose([seq])
    seq.drafter.gain = gain
    return seq


def counts(chosen):
    return sorted(len(drafts) for drafts in chosen.values())


def test_without_room_there_is_no_speculation():
    assert speculation((), 7) is None
    assert speculation(ROOMS, 7) is not None


def test_a_sequence_that_repeats_itself_gets_what_would_follow():
    seq = looping()
    assert make_speculation().choose([seq]) == {seq: [1, 2, 3]}


def test_one_row_may_have_all_drafts_several_share_the_room():
    made = make_speculation()
    assert counts(made.choose([learn(looping(), 6.0)])) == [7]
    assert counts(made.choose([learn(looping(), 6.0) for _ in range(2)])) == [3, 3]
    assert counts(made.choose([learn(looping(), gain) for gain in (6.0, 0.0)])) == [1, 5]
    assert counts(made.choose([learn(looping(), 6.0) for _ in range(8)])) == [3] * 8


def test_a_limit_of_drafts_holds_whatever_the_room():
    assert counts(make_speculation(most=2).choose([learn(looping(), 6.0)])) == [2]


def test_more_rows_than_any_room_get_none():
    assert make_speculation(rows=(9,)).choose([looping() for _ in range(9)]) == {}


@pytest.mark.parametrize(
    "params", [{"presence_penalty": 0.5}, {"frequency_penalty": 0.1}, {"repetition_penalty": 1.1}]
)
def test_a_row_whose_options_need_the_tokens_before_gets_none(params):
    assert make_speculation().choose([looping(**params)]) == {}


def test_a_row_with_a_grammar_gets_none():
    """Which tokens it allows depends on those before, in the same step."""
    row = looping()
    row.matcher = object()
    assert make_speculation().choose([row]) == {}


@pytest.mark.parametrize(
    "params", [{"temperature": 1.0, "top_p": 0.9}, {"min_tokens": 5}, {"num_logprobs": 2}]
)
def test_other_options_allow_drafts(params):
    assert make_speculation().choose([looping(**params)])


def test_no_draft_is_beyond_the_last_token():
    for left in range(4):
        seq = looping()
        seq.max_num_tokens = len(LOOP) + left
        # The step draws one token beyond its drafts.
        expected = [max(0, left - 1)] if left > 1 else []
        assert counts(make_speculation().choose([seq])) == expected


def test_a_step_of_text_that_is_new_has_no_drafts_and_is_not_waited_for():
    seqs = [make_sequence(range(30), max_tokens=40)]
    assert make_speculation().choose(seqs) == {}
    assert not make_speculation().may_follow(seqs)


def test_a_step_is_waited_for_where_drafts_may_follow_its_token():
    seq = looping()
    seq.num_in_flight_tokens = 1
    assert make_speculation().may_follow([seq])


def test_a_step_that_was_waited_for_in_vain_counts_as_a_failure():
    seq, made = looping(), make_speculation()
    seq.num_in_flight_tokens = 1
    assert made.may_follow([seq])
    seq.num_in_flight_tokens = 0
    seq.token_ids.append(99)
    before = seq.drafter.gain
    assert made.choose([seq]) == {}
    assert seq.drafter.gain < before


def test_drafts_of_few_rows_do_not_slow_the_others():
    made = Speculation(ROOMS, 7)
    made.note_step(8, 0.02, has_drafts=False)
    made.note_step(8, 0.04, has_drafts=True)
    others = [make_sequence(range(30 * i, 30 * i + 30), max_tokens=40) for i in range(1, 8)]
    assert made.choose([learn(looping(), 3.0), *others]) == {}
    assert made.choose([learn(looping(), 3.0) for _ in range(8)])
