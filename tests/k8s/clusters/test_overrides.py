"""What the lab changes in the regions' values, before the chart that must take it."""

from __future__ import annotations

import helm_python
import pytest

from k8s.clusters.overrides import group_overrides, overrides, region_values
from k8s.lab.chart_numbers import REGIONS
from tests.helm.charts import PROJECT


@pytest.mark.parametrize("chips_by_claim", [False, True])
def test_the_chart_takes_the_values_of_the_lab(chips_by_claim):
    values = region_values(REGIONS[0]) | overrides(2, chips_by_claim=chips_by_claim)
    helm_python.Chart.load(PROJECT / "helm" / "antipode").validate_schema(values)


def test_the_chart_takes_the_values_of_servers_of_several_hosts():
    values = region_values(REGIONS[0]) | group_overrides(2, "a-secret")
    helm_python.Chart.load(PROJECT / "helm" / "antipode").validate_schema(values)
    assert values["server"]["groupSecret"] == "a-secret"
    assert values["server"]["extra"]["dtype"] == "float32"
