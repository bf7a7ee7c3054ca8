"""The state of the server, the age of its step and its queue, and what its start took."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from prometheus_client.core import GaugeMetricFamily, Metric

from server.link.frames import EngineState
from server.metrics.snapshot import Snapshot
from server.start_clock import PHASES


def state_metrics(gauges: Snapshot) -> Iterator[Metric]:
    state = GaugeMetricFamily(
        "antipode_server_state", "1 for the state the server is in.", labels=["state"]
    )
    for name in get_args(EngineState):
        state.add_metric([name], float(name == gauges.state))
    yield state
    for name, description, value in (
        ("draining", "1 while the server is draining.", float(gauges.state == "draining")),
        (
            "step_age_seconds",
            "Whole seconds since the step loop last began a round.",
            gauges.step_age_seconds // 1,
        ),
        (
            "queue_stall_seconds",
            "Whole seconds for which requests have waited without one that began; 0 if none waits.",
            gauges.queue_stall_seconds // 1,
        ),
        (
            "model_load_duration_seconds",
            "Time from the engine process's start until it is ready; 0 until then.",
            gauges.model_load_seconds,
        ),
    ):
        yield GaugeMetricFamily(f"antipode_{name}", description, value)
    start = GaugeMetricFamily(
        "antipode_start_seconds",
        "What each phase of the start took; together they are the time to ready.",
        labels=["phase"],
    )
    for phase in PHASES:
        start.add_metric([phase], gauges.start_seconds.get(phase, 0.0))
    yield start
