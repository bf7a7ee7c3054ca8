"""What the scenarios of the clusters promise."""

from __future__ import annotations

from k8s.clusters.scenarios import PICKER, SCENARIOS, SHORT


def test_only_a_lost_region_promises_a_time():
    timed = {one.name for one in (*SCENARIOS, PICKER) if one.within is not None}
    assert timed == {"delete", "nodes"}
    assert all(one.first_answer == "other region" for one in SCENARIOS if one.name in timed)


def test_the_short_run_has_scenarios_of_the_long_one():
    assert {*SHORT} <= {one.name for one in SCENARIOS}
