"""Which prompts get the part of a step that is for the shortest."""

from __future__ import annotations

from server.engine.policy.queue.prefill_shares import num_tokens_to_compute, shares_of_shortest
from tests.engine.builders import make_sequence


def prompts(*lengths):
    return [make_sequence([1] * length, request_id=i) for i, length in enumerate(lengths)]


def shares(budget, under_way, waiting):
    found = shares_of_shortest(budget, under_way, waiting)
    return [(seq.num_prompt_tokens, share) for seq, share in found.items()]


def test_half_of_the_budget_goes_to_the_shortest_first():
    assert shares(16, prompts(30), prompts(20, 3, 4)) == [(3, 3), (4, 4), (20, 1)]


def test_of_equals_the_prompt_under_way_comes_first():
    (begun,), (waiting,) = prompts(20), prompts(20)
    assert list(shares_of_shortest(16, [begun], [waiting])) == [begun]


def test_a_budget_of_one_token_is_for_whose_turn_it_is():
    assert shares(1, prompts(30), prompts(3)) == []


def test_few_prompts_are_under_way_but_one_that_ends_at_once_always_may_begin():
    assert shares(16, prompts(40, 41, 42, 43), prompts(9, 8)) == [(8, 8)]
    assert shares(16, prompts(40, 41, 42), prompts(9)) == [(9, 8)]


def test_what_the_prefix_cache_is_expected_to_hold_makes_a_prompt_short():
    (seq,) = prompts(20)
    seq.num_expected_tokens = 16
    assert num_tokens_to_compute(seq) == 4
    assert shares(16, prompts(10), [seq]) == [(20, 4), (10, 4)]


def test_what_is_reserved_is_left_whole():
    seqs = [make_sequence(range(6), request_id=i) for i in range(3)]
    assert sum(shares_of_shortest(16, [], seqs, reserved=12).values()) == 4
    assert shares_of_shortest(16, [], seqs, reserved=20) == {}
