from __future__ import annotations

import json
import subprocess

import pytest

from k8s.lab.chart_numbers import Numbers
from k8s.lab.proxy import ENVOY, Address, configuration

REGIONS = {"near": [Address(1, 2), Address(3, 4)], "far": [Address(5, 6)]}
ADDRESSES = {"near": Address(11, 12), "far": Address(13, 14)}


@pytest.fixture
def config():
    return configuration(REGIONS, ADDRESSES, Numbers.from_charts(), retries=True)[
        "static_resources"
    ]


def test_each_region_prefers_itself(config):
    for cluster in config["clusters"]:
        region = cluster["name"].partition("-")[2]
        localities = cluster["load_assignment"]["endpoints"]
        assert [entry["priority"] for entry in localities] == [0, 1]
        assert localities[0]["locality"]["region"] == region


def test_both_protocols_are_checked_as_the_charts_say(config):
    for cluster in config["clusters"]:
        [check] = cluster["health_checks"]
        assert check["http_health_check"] == {"path": "/readyz"}
        assert (check["interval"], check["timeout"]) == ("5s", "5s")
        endpoints = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        checked = {one["endpoint"]["health_check_config"]["port_value"] for one in endpoints}
        assert checked <= {1, 3, 5}


def test_a_retry_leaves_the_region_and_a_silence_counts_as_a_failure(config):
    for listener in config["listeners"]:
        [connections] = listener["filter_chains"][0]["filters"]
        [host] = connections["typed_config"]["route_config"]["virtual_hosts"]
        policy = host["routes"][0]["route"]["retry_policy"]
        assert policy["retry_priority"]["typed_config"]["update_frequency"] == 1
        assert policy["per_try_idle_timeout"] == "2s"
    for cluster in config["clusters"]:
        assert "split_external_local_origin_errors" not in cluster["outlier_detection"]
        assert cluster["outlier_detection"]["consecutive_5xx"] == 3


def test_retries_can_be_switched_off():
    text = str(configuration(REGIONS, ADDRESSES, Numbers.from_charts(), retries=False))
    assert "retry_policy" not in text


def test_envoy_takes_it(tmp_path):
    config = configuration(REGIONS, ADDRESSES, Numbers.from_charts(), retries=True)
    (tmp_path / "envoy.json").write_text(json.dumps(config))
    command = [ENVOY, "--mode", "validate", "-c", tmp_path / "envoy.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
