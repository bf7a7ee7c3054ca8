"""What metrics read at the moment they are rendered."""

from __future__ import annotations

import pytest

from server.metrics.snapshot import Snapshot


@pytest.mark.parametrize(
    ("running", "waiting", "slots", "ratio"),
    [(0, 0, 0, 0), (0, 0, 8, 0), (2, 0, 8, 0.25), (6, 2, 8, 1), (8, 100, 8, 1)],
)
def test_the_load_counts_what_waits_and_is_never_over_one(running, waiting, slots, ratio):
    snapshot = Snapshot(num_requests_running=running, num_requests_waiting=waiting, num_slots=slots)
    assert snapshot.load_ratio == ratio
