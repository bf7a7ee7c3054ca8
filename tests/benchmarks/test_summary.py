"""The arithmetic of a load: percentiles, goodput, rates, and the ratio of two servers."""

from __future__ import annotations

import pytest

from benchmarks.load.stream import Stream
from benchmarks.load.summary import Bound, percentiles, ratio, summarize


def answer(sent, times, num_tokens=None):
    return Stream(sent, list(times), num_tokens=num_tokens or len(times))


def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed():
    assert percentiles([3.0, 1.0, 2.0, 4.0]) == {50: 2.0, 90: 4.0, 99: 4.0}
    assert percentiles(range(1, 101)) == {50: 50, 90: 90, 99: 99}
    assert percentiles([]) == {}


def test_times_of_a_stream():
    one = answer(1.0, [1.5, 1.7, 1.9])
    assert one.ttft == pytest.approx(0.5)
    assert one.tpot == pytest.approx(0.2)
    assert one.gaps == pytest.approx([0.2, 0.2])


def test_a_part_of_several_tokens_counts_them_all():
    """Two parts of three tokens each: three came after the first part."""
    assert answer(0.0, [0.5, 0.8], num_tokens=6).tpot == pytest.approx(0.1)


def test_a_single_part_has_no_time_per_token():
    assert answer(0.0, [0.5]).tpot is None


def test_a_load_counts_from_its_first_request_to_its_last_token():
    streams = [answer(0.0, [1.0, 2.0]), answer(1.0, [1.5, 4.0], num_tokens=6)]
    found = summarize(streams, Bound(ttft=1.0, tpot=1.0), cpu_seconds=3.0, memory_bytes=7)
    assert (found.requests, found.tokens, found.seconds) == (2, 8, 4.0)
    assert (found.tokens_per_second, found.tokens_per_part) == (2.0, 2.0)
    assert (found.cpu_seconds, found.memory_bytes) == (3.0, 7)


@pytest.mark.parametrize(("ttft", "tpot", "good"), [(1.0, 1.0, 2), (0.9, 1.0, 1), (1.0, 0.5, 1)])
def test_goodput_counts_requests_within_both_bounds(ttft, tpot, good):
    streams = [answer(0.0, [1.0, 2.0]), answer(1.0, [1.5, 2.0])]
    assert summarize(streams, Bound(ttft, tpot), None, None).goodput == good / 2.0


def test_the_ratio_is_of_rounds_that_took_turns():
    assert ratio([10.0, 40.0, 30.0], [10.0, 20.0, 10.0]) == (2.0, 1.0, 3.0)
