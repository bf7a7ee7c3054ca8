"""Where prompts may not leave their region, no object of either chart can send them to another."""

from __future__ import annotations

import re

import pytest
from helm_python import HelmError

from tests.helm.charts import BASE, GATEWAY, case_values, find, merged, render

SERVER = merged(BASE, {"residency": "region"})
HERE = case_values("antipode-gateway", "gke-residency")
# What knows of other clusters: exports, imports, and the class and balancing of several regions.
OF_THE_FLEET = re.compile("export|Import|net.gke.io|cross-regional|-mc|balancingMode|scopes")


def objects_of(chart, values):
    return [one for one in render(chart, values) if one["kind"] != "GlobalRules"]


@pytest.mark.parametrize(("chart", "values"), [("antipode", SERVER), ("antipode-gateway", HERE)])
def test_nothing_knows_of_another_region(chart, values):
    kinds = "Gateway HTTPRoute HealthCheckPolicy GCPBackendPolicy InferencePool ServiceExport"
    kinds += " AutoscalingMetric"
    objects = [one for one in objects_of(chart, values) if one["kind"] in kinds.split()]
    assert objects
    assert OF_THE_FLEET.findall(str(objects)) == []


@pytest.mark.parametrize(("chart", "values"), [("antipode", BASE), ("antipode-gateway", GATEWAY)])
def test_by_default_a_region_passes_requests_on(chart, values):
    assert OF_THE_FLEET.search(str(objects_of(chart, values)))


def test_the_gateway_sends_requests_to_the_pool_and_the_service_of_its_cluster():
    gateway, server = render("antipode-gateway", HERE), render("antipode", SERVER)
    backends = {
        one["metadata"]["name"]: one["spec"]["rules"][0]["backendRefs"][0]
        for one in gateway
        if one["kind"] == "HTTPRoute"
    }
    for route, kind in (("prod-http", "InferencePool"), ("prod-grpc", "Service")):
        assert backends[route]["kind"] == kind
        assert find(server, kind, backends[route]["name"])


def test_the_gateway_takes_the_address_of_its_region():
    gateway = find(render("antipode-gateway", HERE), "Gateway")["spec"]
    assert gateway["gatewayClassName"] == "gke-l7-rilb"
    assert gateway["addresses"] == [{"type": "NamedAddress", "value": "antipode-europe-west4"}]
    ephemeral = find(render("antipode-gateway", merged(HERE, {"gke.addressPrefix": ""})), "Gateway")
    assert "addresses" not in ephemeral["spec"]


def test_the_autoscaler_has_its_metric_without_any_export():
    kinds = [
        one["kind"] for one in render("antipode", merged(SERVER, {"autoscaling.enabled": True}))
    ]
    assert {"AutoscalingMetric", "HorizontalPodAutoscaler"} <= {*kinds}


def test_the_autoscalers_metric_feeds_no_load_balancer_where_none_shares_regions():
    for residency, count in (("region", 0), ("any", 2)):
        values = merged(BASE, {"residency": residency, "autoscaling.enabled": True})
        metric = find(render("antipode", values), "AutoscalingMetric")["spec"]["metrics"][0]
        (container,) = metric["pod"]["containers"]
        gauges = [one["gauge"] for one in container["metrics"]]
        assert sum("loadBalancing" in gauge for gauge in gauges) == count
        assert {"kv-cache", "queue"} <= {gauge["name"] for gauge in gauges}


@pytest.mark.parametrize(
    ("residency", "words"), [("any", "other region takes all"), ("region", "all of them fail")]
)
def test_an_alert_counts_on_another_region_only_where_that_takes_requests(residency, words):
    rules = find(render("antipode", merged(BASE, {"residency": residency})), "Rules")["spec"]
    said = [rule["annotations"]["summary"] for rule in rules["groups"][0]["rules"]]
    assert [one for one in said if words in one]
    assert residency == "any" or not [one for one in said if "the other region" in one]


ENVOY = case_values("antipode-gateway", "envoy")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (merged(GATEWAY, {"residency": "region"}), "list only the region of this cluster"),
        (merged(ENVOY, {"residency": "region"}), "or only its address in envoy.backends"),
        (merged(HERE, {"gke.preferredRegion": "europe-west4"}), "shares requests between regions"),
    ],
)
def test_another_region_is_refused(values, words):
    with pytest.raises(HelmError, match=re.escape(words)):
        render("antipode-gateway", values)


def test_one_backend_of_envoy_is_taken():
    backends = ENVOY["envoy"]["backends"][:1]
    objects = render(
        "antipode-gateway", merged(ENVOY, {"residency": "region", "envoy.backends": backends})
    )
    assert {one["spec"]["fallback"] for one in objects if one["kind"] == "Backend"} == {False}
