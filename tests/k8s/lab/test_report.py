from __future__ import annotations

from dataclasses import replace

import pytest

from k8s.lab.chart_numbers import Numbers
from k8s.lab.load import Answer, LoadShape, Record
from k8s.lab.losses import StreamEnd, common_prefix
from k8s.lab.page import page
from k8s.lab.report import evaluate, percentiles
from k8s.lab.scenarios import SCENARIOS, SHORT

SHAPE = LoadShape(rate=10, num_streams=2, stream_tokens=5, stream_pause=1)
SCENARIO = {scenario.name: scenario for scenario in SCENARIOS}
NEAR, FAR = "near", "far"


def answer(start, seconds=0.01, region=NEAR, error=""):
    return Answer(start, start + seconds, "http", region, error)


def stream(end, **fields):
    counts = {"num_resumed": 0, "num_retries": 0, "num_lost": 0, "num_duplicated": 0}
    return StreamEnd(start=0.0, end=end, protocol="grpc", **(counts | fields))


def result_of(answers, streams=(), scenario="kill", **changes):
    """Of an event at 5 s that had settled at 8 s; time begins at 100 s."""
    record = Record([*answers], [*streams])
    return evaluate(
        replace(SCENARIO[scenario], **changes),
        record,
        SHAPE,
        Numbers.from_charts(),
        primary=NEAR,
        began=104.9,
        event=105.0,
        settled=108.0,
    )


SOUND = [answer(100.0), answer(104.0), answer(105.0, 0.03, FAR), answer(109.0, region=FAR)]


def test_a_kept_promise():
    result = result_of(SOUND, [stream(106.0, num_resumed=1)])
    assert result.broken_promises == []
    assert (result.requests, result.failed, result.resumed_streams) == (4, 0, 1)
    assert (result.first_answer_ms, result.first_since_began_ms) == (30.0, 130.0)
    assert result.breaking_ms == 100.0
    assert (result.before.count, result.during.count, result.after.count) == (2, 1, 1)


@pytest.mark.parametrize(("start", "is_kept"), [(104.5, True), (105.1, False)])
def test_what_was_in_flight_may_fail_only_where_the_scenario_says_so(start, is_kept):
    failed = answer(start, 0.45, error="HTTP 500")
    result = result_of([*SOUND, failed], loses_in_flight=True)
    assert (result.broken_promises == []) is is_kept
    assert list(result.errors) == ["in flight: HTTP 500" if is_kept else "HTTP 500"]
    assert result_of([*SOUND, failed]).broken_promises == ["1 requests or streams failed"]


@pytest.mark.parametrize(
    ("answers", "streams", "promise"),
    [
        ([answer(105.1, error="HTTP 503")], [], "1 requests or streams failed"),
        ([], [stream(106.0, error="broke off", num_lost=3)], "3 tokens of streams were lost"),
        ([], [stream(106.0, num_duplicated=2)], "2 tokens of streams came twice or were others"),
    ],
)
def test_a_broken_promise_is_named(answers, streams, promise):
    assert promise in result_of([*SOUND, *answers], streams).broken_promises


def test_an_answer_that_comes_late_breaks_the_promise():
    late = [answer(100.0), answer(105.0, 2.0, FAR)]
    [promise] = result_of(late).broken_promises
    assert promise == "the first answer took 2000 ms, promised are 50 ms"


def test_an_answer_before_the_last_process_was_gone_is_at_once():
    result = result_of([*SOUND, answer(104.9, 0.06, FAR)])
    assert (result.first_answer_ms, result.first_since_began_ms) == (0.0, 60.0)


def test_a_second_wave_of_slow_answers_breaks_the_promise_of_a_freeze():
    first = [answer(104.5, 2.1, FAR), answer(105.0, 2.3, FAR)]
    assert result_of([*SOUND, *first], scenario="freeze").broken_promises == []
    again = [*first, answer(117.0, 2.1, FAR)]
    result = result_of([*SOUND, *again], scenario="freeze")
    assert result.slow_waves == 2
    assert result.broken_promises == ["slow answers came in 2 waves, promised is 1"]


def test_silence_breaks_the_promise():
    assert result_of([answer(100.0)]).broken_promises == ["nobody of the other region answered"]


def test_an_answer_of_the_region_that_is_gone_does_not_count():
    assert result_of([answer(100.0), answer(105.0), answer(105.0, 0.04, FAR)]).first_answer_ms == 40


def test_a_full_queue_is_an_answer_when_there_is_too_much():
    refused = [*SOUND, answer(106.0, error="HTTP 429")]
    assert result_of(refused, scenario="overload").broken_promises == []
    assert result_of(refused).broken_promises != []


def test_the_timeline_counts_what_ended_in_each_second():
    timeline = result_of([*SOUND, answer(100.5, error="x")], [stream(106.0)]).timeline
    assert [second["by_region"] for second in timeline[:6:5]] == [{NEAR: 1}, {FAR: 1}]
    assert timeline[0]["failed"] == 1
    assert timeline[6]["streams"] == 1


def test_percentiles_are_of_those_that_succeeded():
    answers = [answer(0.0, number / 1000) for number in range(1, 101)]
    found = percentiles([*answers, answer(0.0, 9.0, error="x")])
    assert (found.p50_ms, found.p99_ms, found.count) == (51.0, 99.0, 100)


def test_the_page_shows_every_scenario_and_verdict():
    kept, broken = result_of(SOUND), result_of([*SOUND, answer(105.1, error="<b>")])
    report = {"date": "today", "cpus": 2, "scenarios": [kept.as_json(), broken.as_json()]}
    text = page(report)
    assert "1 of 2 scenarios broke a promise" in text
    assert text.count("<svg") == 4


def test_the_short_form_is_of_scenarios_that_exist():
    assert set(SHORT) <= set(SCENARIO)


def test_where_two_streams_agree():
    assert common_prefix([1, 2, 3], [1, 2, 4, 5]) == [1, 2]
