"""Numbers come into a template as floats or as integers, and leave it as the same text.

Helm gives a number of a values file as a float, which prints an exponent from a million on, and one
of --set as an integer, which compares with no float; --set gives a fraction as text.
"""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache

import pytest
import yaml
from helm_python import HelmError

from k8s.clusters.control_plane import programs
from tests.helm.charts import (
    BASE,
    CASES,
    CHARTS,
    HELM,
    SEVERAL,
    case_values,
    merged,
    pods_of,
    render,
    render_files,
)

EXPONENT = re.compile(r"\d(?:\.\d+)?e[+]\d+")
LARGE = 3_145_728
# Values without which a number is not rendered.
WITH = {
    "dranet.count": {"dranet.allocationMode": "ExactCount"},
    "autoscaling.minReplicas": {"autoscaling.enabled": True, "autoscaling.maxReplicas": LARGE},
    "autoscaling.maxReplicas": {"autoscaling.enabled": True},
    "gke.maxInFlightPerEndpoint": {"gke.balancingMode": "IN_FLIGHT"},
    "healthCheck.timeoutSeconds": {"healthCheck.intervalSeconds": 300},
    "server.groupStartTimeoutSeconds": {"startupSeconds": LARGE + 1},
}


@cache
def integers(chart):
    """The dotted name of each whole number among the values, and its maximum or None."""

    def found(schema, path):
        for name, one in schema.get("properties", {}).items():
            if one.get("type") == "integer":
                yield ".".join([*path, name]), one.get("maximum")
            yield from found(one, [*path, name])

    return dict(found(json.loads((HELM / chart / "values.schema.json").read_text()), []))


def bases(chart):
    names = {"antipode": ("v6e-2x2", "v6e-4x4"), "antipode-gateway": ("gke", "envoy")}[chart]
    return [case_values(chart, name) for name in names]


# It divides the chips of a slice, so it is never large.
ALL = [
    (chart, name)
    for chart in CHARTS
    for name in integers(chart)
    if name != "server.tensorParallelSize"
]


def written(chart, values):
    return "\n".join(render_files(chart, values).values())


@pytest.mark.parametrize(("chart", "name"), ALL)
def test_a_large_number_of_a_values_file_has_no_exponent(chart, name):
    most = min(integers(chart)[name] or LARGE, LARGE)
    for base in bases(chart):
        # A LeaderWorkerSet has a network policy for each replica.
        if "eplicas" in name and base == SEVERAL:
            continue
        changes = {name: most} | WITH.get(name, {})
        assert not EXPONENT.findall(written(chart, merged(base, changes)))


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("server.maxModelLen", 1_048_576, "1048576"),
        ("server.extra", {"kv_cache_bytes": 34_359_738_368}, "34359738368"),
        ("server.extra", {"max_body_bytes": "104857600"}, "104857600"),
        ("server.extra", {"hbm_utilization": 0.85}, "0.85"),
        ("server.extra", {"prefix_caching": False}, "false"),
    ],
)
def test_a_setting_gets_the_number_that_was_given(name, value, text):
    (pod,) = pods_of(render("antipode", merged(BASE, {name: value})))
    variables = {one["name"]: one["value"] for one in pod["spec"]["containers"][0]["env"]}
    key = next(iter(value)).upper() if isinstance(value, dict) else "MAX_MODEL_LEN"
    assert variables[f"ANTIPODE_{key}"] == text


@pytest.mark.parametrize("percent", [99, 99.9, "99.9", 100, "100"])
def test_an_objective_may_be_whole_a_fraction_or_text(percent):
    changes = {
        f"monitoring.objectives.{name}": percent for name in ("successPercent", "firstTokenPercent")
    }
    assert ("BudgetBurns" in written("antipode", merged(BASE, changes))) == (float(percent) < 100)


@pytest.mark.parametrize("percent", [93, 100.5, "93.9", "100.5", "many"])
def test_an_objective_that_no_alert_can_watch_is_refused(percent):
    with pytest.raises(HelmError):
        written("antipode", merged(BASE, {"monitoring.objectives.successPercent": percent}))


# Each by a values file and by --set. A fraction is text with --set.
GIVEN = {
    "server.maxModelLen": 1_048_576,
    "server.extra.kv_cache_bytes": 34_359_738_368,
    "server.extra.hbm_utilization": 0.85,
    "fuse.metadataTtlSeconds": 2_592_000,
    "startupSeconds": 1_000_000,
    "terminationGracePeriodSeconds": 1_000_000,
    "replicas": 2,
    "monitoring.objectives.successPercent": 99.9,
    "monitoring.objectives.firstTokenPercent": 99,
    "monitoring.objectives.firstTokenSeconds": 5,
}


@pytest.mark.parametrize("helm", programs.HELMS)
def test_a_values_file_and_set_give_equal_objects(helm, tmp_path):
    if not programs.built(helm=helm):
        pytest.skip(f"Helm {helm} is not built: make clusters ARGS='--helm {helm}'")
    program = programs.build(helm=helm)["helm"]
    base, file = tmp_path / "base.yaml", tmp_path / "given.yaml"
    base.write_text(yaml.safe_dump(BASE))
    file.write_text(yaml.safe_dump(merged({}, GIVEN)))

    def template(*given):
        words = ["template", "prod", HELM / "antipode", "-f", base, "--kube-version=1.35.0"]
        ran = subprocess.run([program, *words, *given], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    by_file = template("-f", file)
    assert by_file == template("--set", ",".join(f"{k}={v}" for k, v in GIVEN.items()))
    assert "kv_cache_bytes".upper() in by_file
    assert not EXPONENT.findall(by_file)


@pytest.mark.parametrize(("chart", "case"), CASES)
def test_no_case_has_an_exponent(chart, case):
    assert not EXPONENT.findall(written(chart, case_values(chart, case)))
