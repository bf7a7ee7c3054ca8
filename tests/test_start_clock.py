"""How the time of a start is divided into phases."""

from __future__ import annotations

import pytest

from server.start_clock import PHASES, StartClock, process_age


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_the_phases_add_up_to_the_time_since_the_process_began(clock):
    start = StartClock(clock, age=1.5)
    for phase, until in [("weights", 102.0), ("compile", 103.0), ("hosts", 110.0)]:
        clock.now = until
        start.enter(phase)
    clock.now = 111.0
    start.enter("compile")
    clock.now = 113.0
    assert (start.phase, start.phase_seconds) == ("compile", 2.0)
    start.end()
    clock.now = 999.0
    found = {"import": 3.5, "hosts": 1.0, "weights": 1.0, "compile": 9.0, "warm_up": 0.0}
    assert start.seconds() == found
    assert (start.total, start.phase_seconds) == (14.5, 0.0)
    assert start.summary().startswith("14.5 s: import 3.5 s, hosts 1.0 s")


def test_progress_never_goes_back_and_is_whole_only_at_the_end(clock):
    start = StartClock(clock)
    seen = []
    # Of several hosts, the leader waits for the others first and again after compiling.
    for phase in ("hosts", "import", "weights", "compile", "hosts", "warm_up"):
        start.enter(phase)
        for fraction in (0.0, 0.5, 1.0):
            start.advance(fraction)
            seen.append(start.progress)
    assert seen == sorted(seen)
    assert seen[6] < 0.25
    start.enter(PHASES[-1])
    assert start.progress <= 1.0
    start.end()
    assert start.progress == 1.0


def test_weights_that_are_read_do_not_look_like_a_whole_start(clock):
    start = StartClock(clock)
    start.enter("weights")
    start.advance(1.0)
    assert start.progress < 0.5


def test_the_process_has_an_age():
    assert 0 < process_age() < 24 * 3600
