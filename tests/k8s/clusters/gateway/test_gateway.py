"""Envoy's configuration with endpoints that change, as Envoy itself reads it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from k8s.clusters.gateway.gateway import with_endpoints_of
from k8s.clusters.gateway.pickers import CHOSEN, add_pool
from k8s.lab.chart_numbers import REGIONS, Numbers
from k8s.lab.proxy import ENVOY, Address, configuration
from tests.helm.charts import PROJECT

ADDRESSES = {region: Address(18_000 + i, 19_000 + i) for i, region in enumerate(REGIONS)}
PICKER = "10.1.4.2"


def config(tmp_path):
    pods = {REGIONS[0]: [Address(8000, 9000, "10.1.1.2")], REGIONS[1]: []}
    made = configuration(pods, ADDRESSES, Numbers.from_charts(), retries=True)
    for index, region in enumerate(REGIONS):
        add_pool(made, region, 18_500 + index, [PICKER] if index == 0 else [])
    clusters = made["static_resources"]["clusters"]
    made["static_resources"]["clusters"] = [
        with_endpoints_of(tmp_path / f"{one['name']}.json", one) for one in clusters
    ]
    return made | {"node": {"id": "gateway", "cluster": "lab"}}


def test_no_endpoint_is_in_the_configuration_itself(tmp_path):
    text = json.dumps(config(tmp_path))
    assert "10.1.1.2" not in text
    assert PICKER not in text
    assert text.count("path_config_source") == len(made_clusters(tmp_path)) == 8


def made_clusters(tmp_path):
    return {one["name"]: one for one in config(tmp_path)["static_resources"]["clusters"]}


def test_only_requests_to_a_pool_go_where_the_picker_says(tmp_path):
    following = {name for name, one in made_clusters(tmp_path).items() if CHOSEN in json.dumps(one)}
    assert following == {f"pool-{region}" for region in REGIONS}


def test_a_picker_that_is_gone_is_passed_by(tmp_path):
    listeners = config(tmp_path)["static_resources"]["listeners"]
    asking = {one["name"]: json.dumps(one) for one in listeners if "ext_proc" in json.dumps(one)}
    assert asking.keys() == {f"pool-{region}" for region in REGIONS}
    assert all('"failure_mode_allow": true' in text for text in asking.values())


def test_envoy_takes_it(tmp_path):
    envoy: Path = PROJECT / ENVOY
    if not envoy.exists():
        pytest.skip("Envoy is not installed: make .cache/envoy/ready")
    made = config(tmp_path)
    for cluster in made["static_resources"]["clusters"]:
        # Envoy refuses the path of a file that is not there.
        (tmp_path / f"{cluster['name']}.json").write_text('{"resources": []}')
    path = tmp_path / "envoy.json"
    path.write_text(json.dumps(made))
    ran = subprocess.run(
        [envoy, "--mode", "validate", "-c", path, "--use-dynamic-base-id"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
