from __future__ import annotations

import pytest
from antipode import DeadlineExceededError, InvalidRequestError, RetryPolicy, UnavailableError
from antipode.resilience.retry import Attempts

POLICY = RetryPolicy(max_attempts=4, initial_backoff=0.1, max_backoff=0.3)


def test_the_wait_doubles_to_its_most_of_which_half_is_chance():
    assert [POLICY.backoff(attempt, lambda: 1.0) for attempt in (1, 2, 3, 50)] == [
        0.1,
        0.2,
        0.3,
        0.3,
    ]
    assert POLICY.backoff(2, lambda: 0.0) == 0.1


def test_the_last_error_is_raised_with_the_number_of_tries():
    attempts = Attempts(POLICY, None, jitter=lambda: 0.0)
    for _ in range(3):
        assert attempts.delay_after(UnavailableError("gone"), 0.0) > 0
    with pytest.raises(UnavailableError, match=r"gone \(4 attempts\)"):
        attempts.delay_after(UnavailableError("gone"), 0.0)


def test_a_wrong_request_is_raised_at_once():
    with pytest.raises(InvalidRequestError):
        Attempts(POLICY, None).delay_after(InvalidRequestError("wrong"), 0.0)


def test_a_server_may_ask_for_a_longer_wait():
    delay = Attempts(POLICY, None).delay_after(UnavailableError("full", retry_after=2.0), 0.0)
    assert delay == 2.0


def test_no_wait_goes_past_the_deadline():
    attempts = Attempts(POLICY, 10.0, jitter=lambda: 1.0)
    assert attempts.remaining(9.5) == 0.5
    assert attempts.delay_after(UnavailableError("gone"), 9.8) == 0.1
    with pytest.raises(DeadlineExceededError, match="gone"):
        attempts.delay_after(UnavailableError("gone"), 9.8)
    with pytest.raises(DeadlineExceededError):
        attempts.remaining(10.0)
