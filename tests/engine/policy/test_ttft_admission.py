from __future__ import annotations

import pytest

from server.engine.policy.admission import AdmissionError
from server.engine.policy.ttft_admission import Outlook, check_ttft, was_hopeless
from tests.engine.builders import make_sequence


def outlook(**changes):
    found = {
        "num_ahead": 9,
        "num_slots": 0,
        "num_own_tokens": 100,
        "num_tokens_before": 0,
        "slots_per_second": 2.0,
        "prompt_tokens_per_second": 100.0,
    }
    return Outlook(**(found | changes))


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({}, 6.0),
        ({"num_slots": 4}, 4.0),
        ({"num_slots": 20}, 1.0),
        ({"num_slots": 20, "num_tokens_before": 300}, 4.0),
        # A slot and the prompts before it are waited for at the same time.
        ({"num_tokens_before": 300}, 6.0),
        ({"slots_per_second": None}, 1.0),
        ({"slots_per_second": None, "prompt_tokens_per_second": None}, 0.0),
    ],
)
def test_the_first_token_comes_no_sooner(changes, seconds):
    assert outlook(**changes).seconds_to_first_token == pytest.approx(seconds)


def test_a_deadline_that_cannot_be_met_is_refused_with_when_to_return():
    seq = make_sequence([1], deadline=103.5)
    with pytest.raises(
        AdmissionError, match=r"in about 6.0 s, and must come within 3.5 s"
    ) as caught:
        check_ttft(seq, outlook(), 100.0)
    assert (caught.value.kind, caught.value.retry_after) == ("overloaded", 3)
    assert not caught.value.is_hopeless
    check_ttft(make_sequence([1], deadline=107.0), outlook(), 100.0)
    check_ttft(make_sequence([1]), outlook(), 100.0)


def test_a_hoped_for_time_sheds_only_what_may_be_shed():
    check_ttft(make_sequence([1], ttft_seconds=1.0), outlook(), 0.0)
    with pytest.raises(AdmissionError, match="in about"):
        check_ttft(make_sequence([1], ttft_seconds=1.0, priority=-1), outlook(), 0.0)


def test_a_deadline_that_no_idle_server_could_meet_is_hopeless():
    with pytest.raises(AdmissionError) as caught:
        check_ttft(make_sequence([1], deadline=100.9), outlook(), 100.0)
    assert caught.value.is_hopeless


@pytest.mark.parametrize(
    ("limit", "first_scheduled_time", "expected"),
    [
        (10.0, 100.0, True),
        (10.0, 104.9, True),
        (10.0, 105.1, False),
        (10.0, None, False),
        # However long it waited, nobody promises an answer in less than a second.
        (0.001, None, True),
        (0.9, 100.8, True),
    ],
)
def test_a_deadline_that_passed_is_the_servers_where_its_queue_took_the_time(
    limit, first_scheduled_time, expected
):
    seq = make_sequence([1], arrival=100.0, deadline=100.0 + limit)
    seq.first_scheduled_time = first_scheduled_time
    assert was_hopeless(seq) is expected


def test_what_has_no_deadline_is_never_hopeless():
    assert not was_hopeless(make_sequence([1]))
