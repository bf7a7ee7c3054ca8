"""The load of every pulse."""

import pytest

from server.metrics.load import LoadMeter, Rate
from server.metrics.snapshot import Snapshot
from server.slice.chips import ChipUse

GAUGES = Snapshot(num_requests_running=3, num_requests_waiting=1, num_slots=8)


class FakeClock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def meter(clock):
    return LoadMeter(clock)


def test_a_rate_is_the_increase_over_the_last_seconds():
    rate = Rate(window_seconds=10)
    assert rate.update(0, 0) == 0
    assert rate.update(5, 10) == 2
    assert rate.update(10, 10) == 1
    assert rate.update(20, 10) == 0


def test_requests_and_errors_have_rates(meter, clock):
    meter.load(GAUGES, 0.0)
    for outcome in ("stop", "length", "abort", "internal", "queue_full", "invalid_request"):
        meter.on_ended(outcome, 1.0)
    clock.now += 2
    load = meter.load(GAUGES, 0.5)
    assert (load.requests_per_second, load.errors_per_second) == (3, 1)
    assert (load.totals.num_succeeded, load.totals.num_failed) == (2, 2)
    assert load.totals.succeeded_seconds == 2
    assert load.device_busy == 0.5


def test_a_time_limit_that_no_server_could_keep_is_no_error_of_this_one(meter, clock):
    """Else one caller with a limit of a millisecond takes the traffic of all from a replica."""
    meter.load(GAUGES, 0.0)
    for is_hopeless in (True, True, False):
        meter.on_ended("deadline_exceeded", 1.0, is_hopeless=is_hopeless)
        meter.on_ended("overloaded", is_hopeless=is_hopeless)
    clock.now += 1
    load = meter.load(GAUGES, 0.5)
    assert (load.requests_per_second, load.errors_per_second) == (6, 2)


def test_what_runs_counts_by_its_mean_over_time(meter, clock):
    meter.load(GAUGES, 0.0)
    clock.now += 1
    meter.load(GAUGES, 0.0)
    clock.now += 1
    assert meter.load(Snapshot(), 0.0).mean_wanted == 2


def test_short_requests_count_though_no_reading_sees_them(meter, clock):
    meter.load(Snapshot(), 0.0)
    for _ in range(20):
        meter.on_ended("stop", 0.05)
    clock.now += 2
    assert meter.load(Snapshot(), 0.0).mean_wanted == pytest.approx(0.5)


def test_tokens_and_queue_times_are_added_up(meter):
    meter.on_admitted(0.5, 10, 4)
    meter.on_admitted(1.5, 6, 0)
    meter.on_step(0.25, 3)
    totals = meter.load(GAUGES, 0.0).totals
    assert (totals.num_admitted, totals.queue_seconds) == (2, 2)
    assert (totals.num_prompt_tokens, totals.num_cached_tokens) == (16, 4)
    assert (totals.num_steps, totals.busy_seconds) == (1, 0.25)


def test_the_busiest_and_the_fullest_chip_count(meter):
    chips = {
        0: ChipUse(hbm_used={0: 4}, hbm_limit={0: 16}, duty_cycle={0: 0.25}),
        1: ChipUse(hbm_used={0: 8}, hbm_limit={0: 16}, duty_cycle={0: 0.75}),
    }
    load = meter.load(Snapshot(chips=chips), 0.0)
    assert (load.duty_cycle, load.hbm_usage) == (0.75, 0.5)
    assert meter.load(Snapshot(), 0.0).duty_cycle is None
