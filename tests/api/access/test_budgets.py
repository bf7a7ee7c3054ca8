from __future__ import annotations

import pytest

from server.api.access.api_keys import Allowance, Caller
from server.api.access.budgets import Bucket, Budgets


def caller(**limits):
    return Caller("search", Allowance(**limits))


def test_a_bucket_holds_a_minute_and_fills_at_a_constant_rate():
    bucket = Bucket(60, now=0.0)
    bucket.spend(60, 0.0)
    assert bucket.seconds_until(1, 0.0) == pytest.approx(1.0)
    assert bucket.seconds_until(1, 1.0) == pytest.approx(0.0)
    assert bucket.seconds_until(60, 1.0) == pytest.approx(59.0)
    bucket.spend(1, 500.0)
    assert bucket.seconds_until(60, 500.0) == pytest.approx(1.0)


def test_what_was_spent_beyond_the_bucket_must_flow_in_again():
    bucket = Bucket(60, now=0.0)
    bucket.spend(180, 0.0)
    assert bucket.seconds_until(1, 0.0) == pytest.approx(121.0)


def test_without_an_allowance_nobody_waits():
    budgets = Budgets()
    budgets.spend_request(caller(), 0.0)
    budgets.spend_tokens(caller(), 10**9, 0.0)
    assert budgets.seconds_until_open(caller(), 0.0) == (0.0, "")


def test_the_limit_that_is_used_up_is_named():
    budgets, both = Budgets(), caller(requests_per_minute=2, tokens_per_minute=100)
    for _ in range(2):
        assert budgets.seconds_until_open(both, 0.0)[0] == 0
        budgets.spend_request(both, 0.0)
    assert budgets.seconds_until_open(both, 0.0) == (pytest.approx(30.0), "requests_per_minute")
    budgets.spend_tokens(both, 200, 0.0)
    assert budgets.seconds_until_open(both, 0.0) == (pytest.approx(60.6), "tokens_per_minute")


def test_each_of_several_processes_gives_out_its_part():
    budgets, one = Budgets(part=0.25), caller(requests_per_minute=2)
    budgets.spend_request(one, 0.0)
    assert budgets.seconds_until_open(one, 0.0)[0] == pytest.approx(120.0)


def test_other_limits_of_a_name_begin_anew():
    budgets = Budgets()
    budgets.spend_request(caller(requests_per_minute=1), 0.0)
    assert budgets.seconds_until_open(caller(requests_per_minute=1), 0.0)[0] > 0
    assert budgets.seconds_until_open(caller(requests_per_minute=5), 0.0)[0] == 0
