"""What pickers, gateway, autoscaler and alerts read is what the server has; else they are blind."""

from __future__ import annotations

import json
import re

import promql_parser
import pytest
import yaml

from server.metrics.metrics import Metrics
from server.metrics.snapshot import Snapshot
from tests.helm.charts import BASE, GATEWAY, HELM, case_values, find, merged, render

EXPORTED = ("kv-cache", "load")


def test_every_metric_that_is_named_is_one_the_server_has():
    text = yaml.safe_dump_all(render("antipode", case_values("antipode", "everything")))
    text += (HELM / "antipode" / "files" / "dashboard.json").read_text()
    metrics = Metrics(model="tiny", version="1", release="0").render(Snapshot(state="ready"))
    served = set(re.findall(r"^antipode_[a-z_]+", metrics.decode(), re.MULTILINE))
    assert set(re.findall(r"antipode_[a-z_]+", text)) <= served


@pytest.mark.parametrize(
    ("pools", "service", "is_there"),
    [(True, False, True), (False, True, True), (False, False, False)],
)
def test_what_is_exported_is_measured_for_the_gateway(pools, service, is_there):
    changes = {"pools.export": pools, "service.export": service}
    kinds = [one["kind"] for one in render("antipode", merged(BASE, changes))]
    assert ("AutoscalingMetric" in kinds) == is_there


@pytest.mark.parametrize("shape", ["endpoints", "metrics"])
def test_each_shape_of_the_metric_exports_the_same_names(shape):
    spec = find(render("antipode", case_values("antipode", f"metric-{shape}")), "AutoscalingMetric")
    text = yaml.safe_dump(spec["spec"])
    assert shape in spec["spec"]
    assert all(re.search(rf"(exportName|name): {name}$", text, re.MULTILINE) for name in EXPORTED)


def test_the_autoscaler_reads_what_the_metric_exports():
    objects = render("antipode", case_values("antipode", "hpa"))
    scaler = find(objects, "HorizontalPodAutoscaler")["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 6)
    read = [one["pods"]["metric"]["name"].split("|") for one in scaler["metrics"]]
    assert all(source == ["autoscaling.gke.io", "prod"] for *source, _ in read)
    (measured,) = find(objects, "AutoscalingMetric")["spec"]["metrics"]
    gauges = [one["gauge"]["name"] for one in measured["pod"]["containers"][0]["metrics"]]
    assert {name for *_, name in read} <= {*gauges}
    assert "replicas" not in find(objects, "Deployment", "prod")["spec"]


class TestAlerts:
    @pytest.fixture
    def rules(self):
        groups = find(render("antipode", BASE), "Rules")["spec"]["groups"]
        return {one["alert"]: one["expr"] for one in groups[0]["rules"]}

    def test_every_expression_is_one_that_prometheus_can_read(self, rules):
        across = find(render("antipode-gateway", GATEWAY), "GlobalRules")["spec"]["groups"]
        dashboard = json.loads((HELM / "antipode" / "files" / "dashboard.json").read_text())
        shown = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
        for expression in (*rules.values(), across[0]["rules"][0]["expr"], *shown):
            promql_parser.parse(expression)

    def test_no_ready_replica_is_told_without_any_pod(self, rules):
        assert "or vector(0)" in rules["AntipodeNoReadyReplica"]

    def test_each_is_of_its_own_release(self, rules):
        for expression in rules.values():
            assert 'helm_release="prod"' in expression
        (monitoring, picker) = (
            find(render("antipode", BASE), "PodMonitoring", name)
            for name in ("prod", "prod-picker")
        )
        for one in (monitoring, picker):
            assert {"from": "app.kubernetes.io/instance", "to": "helm_release"} in (
                one["spec"]["targetLabels"]["fromPod"]
            )

    @pytest.mark.parametrize(
        ("changes", "pickers"),
        [
            ({}, 4),
            ({"pools.grpc.enabled": False}, 2),
            ({"picker.existing.http": "mine"}, 2),
            ({"picker.replicas": 1}, 2),
        ],
    )
    def test_a_picker_that_is_missing_is_told(self, changes, pickers):
        both = {"pools.grpc.enabled": True, "pools.appProtocol": True}
        objects = render("antipode", merged(BASE, both | changes))
        (group,) = find(objects, "Rules")["spec"]["groups"]
        (rule,) = [one for one in group["rules"] if one["alert"] == "AntipodePickerDown"]
        assert rule["expr"].endswith(f"< {pickers}")

    def test_a_region_that_was_emptied_is_no_alert(self):
        (group,) = find(render("antipode", merged(BASE, {"replicas": 0})), "Rules")["spec"][
            "groups"
        ]
        assert "AntipodeNoReadyReplica" not in {one["alert"] for one in group["rules"]}

    def test_only_a_global_rule_compares_regions(self, rules):
        across = find(render("antipode-gateway", GATEWAY), "GlobalRules")["spec"]["groups"]
        assert not any("version_serving" in expression for expression in rules.values())
        series = 'antipode_model_version_serving{namespace="llm", helm_release="antipode"}'
        assert series in across[0]["rules"][0]["expr"]
