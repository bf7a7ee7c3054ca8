"""When a step with drafts is worth its time, by what steps have taken."""

from __future__ import annotations

from server.engine.policy.drafts.step_costs import StepCosts


def measured(plain, drafting, num_rows=1):
    costs = StepCosts()
    costs.note(num_rows, plain, has_drafts=False)
    costs.note(num_rows, drafting, has_drafts=True)
    return costs


def test_a_step_without_drafts_is_measured_first():
    assert not StepCosts().pays(1, gain=7.0)


def test_the_first_step_with_drafts_is_a_trial():
    costs = StepCosts()
    costs.note(1, 0.02, has_drafts=False)
    assert costs.pays(1, gain=0.1)


def test_drafts_pay_where_they_give_more_tokens_per_second():
    costs = measured(plain=0.02, drafting=0.03)
    assert not costs.pays(1, gain=0.4)
    assert costs.pays(1, gain=0.6)


def test_the_gain_is_that_of_all_rows():
    costs = measured(plain=0.02, drafting=0.03, num_rows=8)
    assert not costs.pays(8, gain=3.9)
    assert costs.pays(8, gain=4.1)


def test_rows_of_another_size_are_measured_by_themselves():
    costs = measured(plain=0.02, drafting=0.2, num_rows=8)
    assert not costs.pays(7, gain=1.0)
    assert not costs.pays(9, gain=100.0)  # Nothing of this size was measured.


def test_one_slow_step_does_not_end_drafts_for_good():
    costs = measured(plain=0.02, drafting=0.1)
    refused = 0
    while not costs.pays(1, gain=2.0):
        refused += 1
    assert 10 < refused < 500
