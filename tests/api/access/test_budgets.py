from __future__ import annotations

import sys
import threading

import pytest

from server.api.access.api_keys import Allowance, Caller
from server.api.access.budgets import Bucket, Budgets


def caller(name="search", **limits):
    return Caller(name, Allowance(**limits))


def test_a_bucket_holds_a_minute_and_fills_at_a_constant_rate():
    bucket = Bucket(60, level=0)
    assert bucket.seconds_until(1) == pytest.approx(1.0)
    bucket.fill(1.0)
    assert bucket.seconds_until(1) == pytest.approx(0.0)
    assert bucket.seconds_until(60) == pytest.approx(59.0)
    bucket.fill(500.0)
    assert bucket.level == 60


def test_a_key_without_limits_is_always_admitted():
    budgets = Budgets()
    budgets.spend_tokens(caller(), 10**9, 0.0)
    assert budgets.admit(caller(), 0.0) == (0.0, "")


def test_tokens_beyond_the_budget_must_flow_in_again():
    budgets, one = Budgets(), caller(tokens_per_minute=60)
    budgets.spend_tokens(one, 180, 0.0)
    assert budgets.admit(one, 0.0) == (pytest.approx(121.0), "tokens_per_minute")
    assert budgets.admit(one, 121.1) == (0.0, "")


def test_the_limit_that_is_used_up_is_named():
    budgets, both = Budgets(), caller(requests_per_minute=2, tokens_per_minute=100)
    for _ in range(2):
        assert budgets.admit(both, 0.0) == (0.0, "")
    assert budgets.admit(both, 0.0) == (pytest.approx(30.0), "requests_per_minute")
    budgets.spend_tokens(both, 200, 0.0)
    assert budgets.admit(both, 0.0) == (pytest.approx(60.6), "tokens_per_minute")


def test_a_refused_request_spends_nothing():
    budgets, one = Budgets(), caller(requests_per_minute=1)
    assert budgets.admit(one, 0.0)[0] == 0
    for _ in range(5):
        assert budgets.admit(one, 0.0)[0] == pytest.approx(60.0)


def test_other_limits_of_a_name_begin_anew():
    budgets = Budgets()
    budgets.admit(caller(requests_per_minute=1), 0.0)
    assert budgets.admit(caller(requests_per_minute=1), 0.0)[0] > 0
    assert budgets.admit(caller(requests_per_minute=5), 0.0)[0] == 0


def test_several_processes_give_out_one_budget(tmp_path):
    first, second = (Budgets(tmp_path / "budgets") for _ in range(2))
    one, other = caller(requests_per_minute=2), caller("batch", requests_per_minute=2)
    waits = [budgets.admit(one, 5.0)[0] for budgets in (first, second, first, second)]
    assert waits == [0.0, 0.0, pytest.approx(30.0), pytest.approx(30.0)]
    assert second.admit(other, 5.0)[0] == 0.0
    # Whose clock is a little behind gains nothing.
    assert second.admit(one, 4.9)[0] == pytest.approx(30.0)


@pytest.fixture
def restless():
    """Threads take turns as often as processes may."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("restless")
def test_what_processes_spend_at_the_same_time_all_counts(tmp_path):
    one = caller(requests_per_minute=30_000, tokens_per_minute=30_000)

    def spend():
        budgets = Budgets(tmp_path / "budgets")
        for _ in range(1_500):
            budgets.admit(one, 1.0)
            budgets.spend_tokens(one, 3, 1.0)

    threads = [threading.Thread(target=spend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    budgets = Budgets(tmp_path / "budgets")
    budgets.spend_tokens(one, 12_000 + 600, 1.0)
    assert budgets.admit(one, 1.0) == (pytest.approx(601 * 60 / 30_000), "tokens_per_minute")


def test_more_names_than_records_drop_those_that_were_unused_for_longest(monkeypatch):
    monkeypatch.setattr("server.api.access.budgets._SIZE", 2 * 56)
    budgets = Budgets()
    for now, name in enumerate("abc", start=1):
        assert budgets.admit(caller(name, requests_per_minute=1), float(now))[0] == 0
    assert budgets.admit(caller("c", requests_per_minute=1), 3.0)[0] > 0
    assert budgets.admit(caller("a", requests_per_minute=1), 3.0)[0] == 0


def test_the_file_has_its_room_from_the_start(tmp_path):
    """A write to a mapped hole, on a disk that has become full, would kill the process."""
    Budgets(tmp_path / "budgets")
    status = (tmp_path / "budgets").stat()
    assert status.st_blocks * 512 >= status.st_size > 0
