"""The numbers that metrics are made of."""

from __future__ import annotations

from server.metrics.histogram import BusyRatio, Histogram


def test_busy_ratio_looks_back_one_second_only():
    ratio = BusyRatio()
    busy = 0.0
    for eighth in range(17):
        seen = ratio.update(eighth / 8, busy)
        busy += 0.125 if eighth < 8 else 0.03125
    assert seen == 0.25


def test_busy_ratio_is_never_above_one():
    ratio = BusyRatio()
    ratio.update(0.0, 0.0)
    assert ratio.update(0.1, 5.0) == 1.0


def test_histogram_buckets_are_cumulative_and_include_their_bound():
    histogram = Histogram([1, 2])
    for number in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(number)
    assert histogram.cumulative() == ([("1.0", 2), ("2.0", 3), ("+Inf", 4)], 12.0)
