"""Which checks a run makes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from k8s.clusters.checks import CHECKS, SHORT, chosen


def fake_lab(*, has_pickers=True, num_replicas=2, envoy_gateway="there"):
    return SimpleNamespace(
        has_pickers=has_pickers, num_replicas=num_replicas, envoy_gateway=envoy_gateway
    )


def test_a_lab_with_every_program_makes_every_check_in_their_order():
    assert [*chosen(fake_lab(), is_short=False)] == [*CHECKS]


@pytest.mark.parametrize(
    ("lab", "lacking"),
    [
        (fake_lab(has_pickers=False), "shared"),
        (fake_lab(num_replicas=3), "shared"),
        (fake_lab(envoy_gateway=None), "routed"),
    ],
)
def test_a_check_whose_program_is_missing_is_not_reported_as_good(lab, lacking):
    assert {*chosen(lab, is_short=False)} == {*CHECKS} - {lacking}


def test_a_short_run_makes_few_checks():
    assert {*chosen(fake_lab(), is_short=True)} == {*CHECKS} & {*SHORT}
