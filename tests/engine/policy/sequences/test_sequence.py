from __future__ import annotations

import pytest

from server.engine.policy.sequences.sequence import SequenceState
from tests.engine.builders import make_choices, make_sequence
from tests.engine.fakes import EOS


def test_counts_include_the_token_in_flight():
    seq = make_sequence([1, 2, 3])
    assert (seq.num_tokens, seq.num_prompt_tokens, seq.num_generated_tokens) == (3, 3, 0)
    seq.num_in_flight_tokens = 1
    assert (seq.num_tokens, seq.num_generated_tokens) == (4, 1)
    seq.token_ids.append(7)
    seq.num_in_flight_tokens = 0
    assert (seq.num_tokens, seq.num_generated_tokens) == (4, 1)


def test_decoding_begins_when_only_the_newest_token_is_left():
    seq = make_sequence([1, 2, 3])
    assert seq.num_uncomputed_tokens == 3
    assert not seq.is_decoding
    seq.num_computed_tokens = 2
    assert seq.num_uncomputed_tokens == 1
    assert not seq.is_decoding, "the last prompt token is still a prefill"
    seq.num_computed_tokens = 3
    seq.num_in_flight_tokens = 1
    assert seq.is_decoding


def test_nothing_is_left_to_compute_once_the_last_token_is_on_its_way():
    seq = make_sequence([1, 2, 3], max_tokens=1)
    seq.num_computed_tokens, seq.num_in_flight_tokens = 3, 1
    assert seq.num_uncomputed_tokens == 0
    assert not seq.is_decoding


def test_a_prompt_is_computed_even_for_no_token_at_all():
    seq = make_sequence([1, 2, 3], max_tokens=0)
    assert seq.num_uncomputed_tokens == 3


@pytest.mark.parametrize(
    ("params", "stops"),
    [
        ({}, {EOS}),
        ({"stop_token_ids": (3, 4)}, {3, 4, EOS}),
        ({"ignore_eos": True}, set()),
        ({"ignore_eos": True, "stop_token_ids": (3,)}, {3}),
    ],
)
def test_stop_tokens_are_the_requests_own_and_the_models_unless_ignored(params, stops):
    assert make_sequence([1], **params).stop_token_ids == stops


def test_a_choice_is_deferred_until_the_first_has_a_token_or_has_ended():
    leader, follower = make_choices([1, 2, 3], 2)
    assert not leader.is_deferred
    assert not follower.is_deferred
    follower.leader = leader
    assert follower.is_deferred
    leader.token_ids.append(5)
    assert not follower.is_deferred
    leader.token_ids.pop()
    leader.state = SequenceState.FINISHED
    assert not follower.is_deferred


def test_prompt_logprobs_need_the_whole_prompt_until_they_are_known():
    assert not make_sequence([1, 2, 3]).needs_whole_prompt
    seq = make_sequence([1, 2, 3], num_prompt_logprobs=0)
    assert seq.needs_whole_prompt
    seq.prompt_logprobs.extend([None, None])
    assert not seq.needs_whole_prompt
    assert not make_sequence([1], num_prompt_logprobs=0).needs_whole_prompt


def test_the_outcome_is_the_error_or_else_the_finish_reason():
    seq = make_sequence([1])
    seq.finish_reason = "length"
    assert seq.outcome == "length"
    seq.finish_reason, seq.error = "error", "deadline_exceeded"
    assert seq.outcome == "deadline_exceeded"


def test_time_per_output_token_leaves_the_first_out():
    seq = make_sequence([1])
    assert seq.seconds_per_output_token is None
    seq.token_ids.append(2)
    seq.first_token_time = seq.last_token_time = 10.0
    assert seq.seconds_per_output_token is None
    seq.token_ids.extend([3, 4])
    seq.last_token_time = 13.0
    assert seq.seconds_per_output_token == 1.5
