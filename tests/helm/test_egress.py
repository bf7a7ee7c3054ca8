"""What the server may call, such as a collector of traces."""

from __future__ import annotations

import re

import yaml

from tests.helm.charts import BASE, PROJECT, find, merged, pods_of, render


def test_the_server_may_call_pods_of_namespaces_and_ranges_outside():
    """A range matches no pod where the network knows pods by their labels, as Dataplane V2 does."""
    spans = [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector.tracing:4318"}]
    changes = {
        "server.extra": {"tracing": True},
        "extraEnv": spans,
        "networkPolicy.egressNamespaces": ["tracing"],
        "networkPolicy.egressRanges": ["10.9.0.0/16"],
    }

    def egress(changes):
        policy = find(render("antipode", merged(BASE, changes)), "NetworkPolicy", "prod")
        return policy["spec"]["egress"]

    asked = egress(changes)[-1]
    assert asked["ports"] == [{"protocol": "TCP", "port": 1, "endPort": 65535}]
    namespace = {"matchLabels": {"kubernetes.io/metadata.name": "tracing"}}
    assert asked["to"] == [
        {"ipBlock": {"cidr": "10.9.0.0/16"}},
        {"namespaceSelector": namespace},
    ]
    alone = egress({"networkPolicy.egressNamespaces": ["tracing"]})[-1]
    assert alone["to"] == [{"namespaceSelector": namespace}]
    assert len(egress({})) == len(egress(changes)) - 1


def test_the_documented_way_to_send_traces_renders_a_pod_that_may_send_them():
    page = (PROJECT / "docs" / "deploy.md").read_text().partition("## Send traces")[2]
    traced = yaml.safe_load(page.split("```")[1])
    objects = render(
        "antipode",
        {**BASE, **traced, "networkPolicy": {**BASE["networkPolicy"], **traced["networkPolicy"]}},
    )
    (pod,) = pods_of(objects)
    variables = {v["name"]: v["value"] for v in pod["spec"]["containers"][0]["env"]}
    assert variables["ANTIPODE_TRACING"] == "true"
    # http://SERVICE.NAMESPACE:PORT
    namespace = re.split("[.:]", variables["OTEL_EXPORTER_OTLP_ENDPOINT"])[2]
    policy = find(objects, "NetworkPolicy", "prod")["spec"]
    assert namespace in str(policy["egress"])
