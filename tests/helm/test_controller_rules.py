"""Every case of every chart against the rules of GKE's controllers that no schema has."""

from __future__ import annotations

import pytest

from k8s.clusters.control_plane.policies import RULES, refused
from tests.helm.charts import BASE, CASES, SEVERAL, case_values, find, merged, pods_of, render
from tests.helm.controller_rules import on_gke, violations


@pytest.mark.parametrize(("chart", "case"), CASES)
def test_gkes_controllers_take_every_case(chart, case):
    objects = render(chart, case_values(chart, case))
    assert not on_gke(objects) or violations(objects) == []


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_rule_refuses_what_it_is_there_for(rule):
    thing = refused(rule)
    assert violations([thing]) == [f"{rule.kind} {rule.name} {rule.path}: {rule.why}"]


@pytest.mark.parametrize("shape", ["endpoints", "metrics"])
@pytest.mark.parametrize("values", [BASE, SEVERAL], ids=["one-host", "several-hosts"])
def test_the_metric_finds_the_pods_that_serve_by_one_plain_label(values, shape):
    objects = render("antipode", merged(values, {"autoscalingMetric.shape": shape}))
    spec = find(objects, "AutoscalingMetric")["spec"]
    selector = (spec if shape == "endpoints" else spec["metrics"][0]["pod"])["selector"]
    serving, *followers = (pod["metadata"]["labels"] for pod in pods_of(objects))
    assert selector["matchLabels"] == {"antipode-server": "prod"}
    assert serving["antipode-server"] == "prod"
    assert not any("antipode-server" in labels for labels in followers)


def test_no_immutable_selector_has_the_plain_label():
    for one in render("antipode", BASE):
        if one["kind"] in ("Deployment", "LeaderWorkerSet"):
            assert "antipode-server" not in str(one["spec"].get("selector"))


def test_pools_name_no_protocol_unless_asked_and_grpc_has_none():
    objects = render("antipode", BASE)
    (pool,) = [one for one in objects if one["kind"] == "InferencePool"]
    assert pool["metadata"]["name"] == "prod-http"
    assert "appProtocol" not in pool["spec"]
    asked = render("antipode", merged(BASE, {"pools.appProtocol": True}))
    assert find(asked, "InferencePool")["spec"]["appProtocol"] == "http"


def test_grpc_goes_by_the_exported_service_by_default():
    (gateway, server) = (
        render("antipode-gateway", {"regions": ["europe-west4", "us-east5"], "release": "prod"}),
        render("antipode", BASE),
    )
    (backend,) = find(gateway, "HTTPRoute", "prod-grpc")["spec"]["rules"][0]["backendRefs"]
    assert (backend["kind"], backend["name"]) == ("ServiceImport", "prod")
    assert find(server, "ServiceExport")["metadata"]["name"] == "prod"


def test_only_the_autoscaler_gets_the_queue_and_only_where_it_is_on():
    def gauges(changes):
        spec = find(render("antipode", merged(BASE, changes)), "AutoscalingMetric")["spec"]
        found = spec["metrics"][0]["pod"]["containers"][0]["metrics"]
        return {one["gauge"]["name"]: "loadBalancing" in one["gauge"] for one in found}

    assert gauges({}) == {"kv-cache": True, "load": True}
    on = gauges({"autoscaling.enabled": True})
    assert on == {"kv-cache": True, "load": True, "queue": False}
