"""The pauses before a container starts again."""

from __future__ import annotations

from k8s.clusters.kubelet.backoff import Backoff


def test_the_first_restart_is_at_once_and_later_ones_wait_longer_up_to_five_minutes():
    backoff = Backoff()
    assert [backoff.delay(1) for _ in range(8)] == [0, 10, 20, 40, 80, 160, 300, 300]


def test_ten_minutes_of_running_are_forgiven():
    backoff = Backoff()
    for _ in range(4):
        backoff.delay(1)
    assert [backoff.delay(600), backoff.delay(1)] == [0, 10]
