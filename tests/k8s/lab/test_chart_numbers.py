"""The lab's numbers are what the charts render, not what their values say."""

from __future__ import annotations

import pytest
import yaml

from k8s.lab import chart_numbers as module
from k8s.lab.chart_numbers import REGIONS, Numbers
from tests.helm.charts import HELM, find, render


@pytest.fixture(scope="module")
def numbers():
    return Numbers.from_charts()


def test_checks_are_those_of_the_health_check_policies(numbers):
    policy = find(
        render("antipode-gateway", {"regions": [*REGIONS]}), "HealthCheckPolicy", "prod-http"
    )
    assert policy["spec"]["default"] == {
        "checkIntervalSec": numbers.check_interval,
        "timeoutSec": numbers.check_timeout,
        "unhealthyThreshold": numbers.unhealthy_threshold,
        "healthyThreshold": numbers.healthy_threshold,
        "config": {
            "type": "HTTP",
            "httpHealthCheck": {
                "portSpecification": "USE_FIXED_PORT",
                "port": 8000,
                "requestPath": numbers.check_path,
            },
        },
    }


def test_servers_get_the_times_of_their_regions_pods(tmp_path, monkeypatch):
    for region, seconds in zip(REGIONS, (16, 17), strict=True):
        values = yaml.safe_load((HELM / "regions" / f"{region}.yaml").read_text())
        values["server"] = {"lameDuckSeconds": seconds}
        (tmp_path / "regions").mkdir(exist_ok=True)
        (tmp_path / "regions" / f"{region}.yaml").write_text(yaml.safe_dump(values))
    for chart in ("antipode", "antipode-gateway"):
        (tmp_path / chart).symlink_to(HELM / chart)
    monkeypatch.setattr(module, "HELM", tmp_path)
    numbers = Numbers.from_charts()
    found = [numbers.servers[region]["ANTIPODE_LAME_DUCK_SECONDS"] for region in REGIONS]
    assert found == ["16", "17"]
    assert numbers.lame_duck == 16


def test_an_ejection_outlasts_the_checks_that_find_a_silent_region(numbers):
    assert float(numbers.ejection.removesuffix("s")) > numbers.silent_detection


def test_an_ejection_follows_the_checks():
    slower = {"healthCheck": {"intervalSeconds": 7, "timeoutSeconds": 6, "unhealthyThreshold": 3}}
    values = {
        "flavour": "envoy",
        "envoy": {"backends": [{"host": "a.example"}, {"host": "b.example"}]},
        **slower,
    }
    policy = find(render("antipode-gateway", values), "BackendTrafficPolicy", "prod-http")
    passive = policy["spec"]["healthCheck"]["passive"]
    assert passive["baseEjectionTime"] == f"{3 * (7 + 6) + 7}s"


def test_a_lame_duck_outlasts_the_gateways_noticing(numbers):
    assert numbers.lame_duck >= numbers.detection
