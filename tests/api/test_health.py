"""Whether the server lives and is ready, as the engine's pulse and the lifecycle say."""

from __future__ import annotations

import pytest

from server.api.health import Health
from server.lifecycle import Lifecycle
from server.link.frames import Pulse
from tests.api.fakes import FakeEngine, make_health


def test_readiness_follows_start_up(engine):
    lifecycle = Lifecycle()
    health = make_health(engine, lifecycle)
    engine.info, engine.pulse = None, None
    assert not health.readiness().ok
    engine.pulse = Pulse(
        state="starting",
        detail="loading weights",
        phase="weights",
        phase_seconds=1.5,
        progress=0.25,
    )
    status = health.readiness()
    assert (status.ok, status.detail, status.progress) == (False, "loading weights", 0.25)
    assert (status.phase, status.phase_seconds) == ("weights", 1.5)
    engine.info = FakeEngine().info
    lifecycle.mark_ready()
    assert (health.readiness().ok, health.readiness().phase) == (True, None)


def test_a_draining_server_is_not_ready_but_lives(health, lifecycle):
    lifecycle.begin_drain()
    assert (health.readiness().ok, health.readiness().state) == (False, "draining")
    assert health.liveness().ok


@pytest.mark.parametrize("state", ["starting", "ready"])
def test_a_hung_step_loop_is_neither_live_nor_ready(health, engine, state):
    engine.pulse = Pulse(state=state, progress_age=30.5)
    assert (health.liveness().ok, health.liveness().state) == (False, "hung")
    assert not health.readiness().ok
    assert "30.5 s" in health.liveness().detail


def test_an_engine_that_says_nothing_is_not_live(health, engine):
    engine.pulse_age = 31.0
    assert (health.liveness().ok, health.liveness().state) == (False, "hung")


def test_a_busy_or_compiling_engine_is_live(health, engine):
    engine.pulse = Pulse(state="starting", detail="compiling")
    assert health.liveness().ok
    engine.pulse = Pulse(state="ready", progress_age=29.0)
    assert health.liveness().ok


def test_a_failed_engine_is_not_live_and_says_why(health, engine):
    engine.failure = "the engine process has ended"
    assert (health.liveness().ok, health.liveness().detail) == (False, engine.failure)


def test_metrics_are_the_newest_pulses(health, engine):
    assert health.metrics() == b"up 1\n"
    engine.pulse = None
    assert health.metrics() == b""


def test_a_queue_that_does_not_move_makes_a_server_unready_but_not_dead(health, engine):
    engine.pulse = Pulse(state="ready", queue_stall=30.5)
    assert (health.readiness().ok, health.readiness().state) == (False, "stalled")
    assert "none has begun for 30.5 s" in health.readiness().detail
    assert health.liveness().ok
    engine.pulse = Pulse(state="ready", queue_stall=29.0)
    assert health.readiness().ok


def test_a_limit_of_zero_leaves_a_server_ready_whatever_waits(engine, lifecycle):
    health = Health(engine, lifecycle, hang_timeout_seconds=30, queue_stall_seconds=0)
    engine.pulse = Pulse(state="ready", queue_stall=999.0)
    assert health.readiness().ok
