"""What the charts refuse: names they do not know, and values that do not fit together."""

from __future__ import annotations

import re

import pytest
import yaml
from helm_python import HelmError

from server.config.config import settings
from tests.helm.charts import (
    BASE,
    CHARTS,
    GATEWAY,
    HELM,
    SEVERAL,
    case_values,
    merged,
    pods_of,
    read_all,
    render,
    render_files,
)

COMPUTE_CLASS = {"name": "tpu", "create": True, "serviceAccount": "default"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image.repository": ""}, "image.repository is empty"),
        (
            {"image.repository": "registry.example/antipode:1.2"},
            "move the part after the name into image.tag or image.digest",
        ),
        (
            {"podLabels": {"app.kubernetes.io/instance": "other"}},
            "podLabels sets app.kubernetes.io/instance, which the chart sets from other values",
        ),
        (
            {"nodeSelector": {"cloud.google.com/gke-tpu-topology": "4x4"}},
            "nodeSelector sets cloud.google.com/gke-tpu-topology",
        ),
        ({"podLabels": {"leaderworkerset.sigs.k8s.io/worker-index": "0"}}, "podLabels sets"),
        ({"serviceAccount.name": "prod-picker"}, "the name of the endpoint pickers' account"),
        (
            {"swap.mode": "rollout", "model.labels": {"canary": "4"}},
            "leave it empty with rollout",
        ),
        (
            {"replicas": 0, "autoscaling.enabled": True, "autoscalingMetric.shape": "metrics"},
            "set autoscaling.enabled to false to empty the region",
        ),
        ({"tls.clientCa": True}, "tls.clientCa is true, but tls.secret is empty"),
        ({"tls.secret": "tls"}, "set pools.http.enabled and pools.grpc.enabled to false"),
        (
            {"tls.secret": "tls", "pools.http.enabled": False},
            "set pools.export, service.export and autoscaling.enabled to false",
        ),
        ({"service.type": "NodePort"}, "list the clients' ranges in networkPolicy.clientRanges"),
        (
            {"service.type": "LoadBalancer", "networkPolicy.clientRanges": ["10.0.0.0/8"]},
            "set service.annotations to the annotation that keeps the address internal",
        ),
        (
            {
                "pools.http.enabled": False,
                "pools.grpc.enabled": False,
                "service.export": True,
                "networkPolicy.proxyRanges": [],
            },
            "networkPolicy.proxyRanges is empty",
        ),
        ({"model.version": ""}, "model.name, model.path and model.version must all be set"),
        ({"model.path": "llama/3"}, 'model.path "llama/3" ends in a version'),
        ({"model.path": "gs://b/llama", "model.bucket": ""}, "begins with gs://; leave it out"),
        ({"terminationGracePeriodSeconds": 75}, "allow at least 85, or leave it at 0"),
        ({"slice": "v6e:3x3"}, 'slice "v6e:3x3" is not supported by this chart; use v5e:1x1'),
        ({"slice": "v6e:4x4", "server.tensorParallelSize": 5}, "divide the 16 chips of v6e:4x4"),
        (
            {
                "slice": "v6e:4x4",
                "server.tensorParallelSize": 4,
                "server.dataParallelSize": 3,
            },
            "leaves hosts of v6e:4x4 without a chip to use",
        ),
        (
            {"server.tensorParallelSize": 2, "server.dataParallelSize": 3},
            "which need more than the 4 chips of v6e:2x2",
        ),
        ({"server.tensorParallelSize": 3}, "which does not divide the 4 chips of v6e:2x2"),
        ({"slice": "v5e:2x2"}, "on v6e and v7x only"),
        ({"slice": "cpu"}, "the slice is cpu; set dranet.enabled to false"),
        (
            {"computeClass": COMPUTE_CLASS, "slice": "cpu", "dranet.enabled": False},
            "the class is made from a TPU slice",
        ),
        (
            {"computeClass": {**COMPUTE_CLASS, "priorities": ["reservation", "spot"]}},
            "set computeClass.reservation to its name",
        ),
        ({"computeClass.reservation": "mine"}, "so it would not be used"),
        ({"dranet.allocationMode": "ExactCount"}, "set dranet.count"),
        ({"dranet.count": 2}, "dranet.count is set, but dranet.allocationMode is All"),
        (
            {
                "autoscaling.enabled": True,
                "autoscaling.maxReplicas": 1,
                "autoscaling.minReplicas": 2,
            },
            "autoscaling.maxReplicas is 1, less than minReplicas, 2",
        ),
        ({"networkPolicy.proxyRanges": []}, "networkPolicy.proxyRanges is empty"),
        ({"picker.enabled": False}, "pools.http is enabled without an endpoint picker"),
        (
            {"compileCache.storageClass": "fast", "slice": "v6e:4x4"},
            "which only one pod can mount, and v6e:4x4 has 4 hosts",
        ),
        (
            {"slice": "v6e:4x4"},
            "server.groupSecret is empty, but v6e:4x4 has 4 hosts, which prove themselves to each "
            "other by a secret; create a Secret whose key secret",
        ),
        ({"server.groupPort": 8470}, "but 8471 is a port of the server or of libtpu"),
        ({"server.groupPort": 8475}, "but 8476 is a port of the server or of libtpu"),
        (
            {"slice": "v5e:1x1", "dranet.enabled": False},
            "resources.memory is 64Gi and fuse.fileCache, which is in memory too, is 40Gi, but "
            "ct5lp-hightpu-1t, the machine of v5e:1x1, leaves pods 40 GiB",
        ),
        (
            {"slice": "v6e:1x1", "resources.memory": "120G", "fuse.fileCache": "50Gi"},
            "ct6e-standard-1t, the machine of v6e:1x1, leaves pods 153 GiB",
        ),
        (
            {"slice": "v6e:1x1", "resources.cpu": "43001m"},
            "resources.cpu is 43001m, but ct6e-standard-1t",
        ),
        (
            {"computeClass": {**COMPUTE_CLASS, "priorities": ["onDemand", "spot"]}},
            "spot nodes, which give them 15 seconds to end (spotSeconds), but a drain may take 75",
        ),
        ({"nodeSelector": {"cloud.google.com/gke-spot": "true"}}, "so streams would be cut"),
        (
            {"computeClass": {**COMPUTE_CLASS, "priorities": ["spot"]}, "spotSeconds": 106},
            "set spotSeconds to 105 or less",
        ),
        ({"computeClass.create": True}, "nodes would run as the project's default account"),
        ({"computeClass.serviceAccount": "default"}, "so no nodes would run as it"),
        ({"objectives": [{"name": "b-c", "priority": 1}]}, "the objective is named prod-b-c-http"),
        (
            {"objectives": [{"name": "a", "priority": 1}, {"name": "a", "priority": 2}]},
            "objectives has a twice",
        ),
        ({"extraEnv": [{"name": "A"}, {"name": "A"}]}, "extraEnv has A twice"),
        ({"extraEnv": [{"name": "TPU_TOPOLOGY", "value": "9x9"}]}, "comes from the platform"),
        ({"commonLabels": {"grafana_dashboard": "0"}}, "commonLabels sets grafana_dashboard"),
        ({"serviceAccount.create": False}, "set serviceAccount.name to the account that exists"),
        ({"commonLabels": {"gke.io/region": "a"}}, "commonLabels sets gke.io/region"),
        (
            {"commonLabels": {"team": "a"}, "podLabels": {"team": "b"}},
            "commonLabels and podLabels both set team",
        ),
        (
            {"extraEnv": [{"name": "ANTIPODE_HTTP_PORT", "value": "1"}]},
            "extraEnv sets ANTIPODE_HTTP_PORT",
        ),
        ({"model.path": "../llama"}, 'model.path is "../llama", which leaves the bucket'),
        ({"fuse.onlyDir": ".."}, 'fuse.onlyDir is "..", which leaves the bucket'),
        ({"fuse.onlyDir": "other"}, "outside of it; use a folder that contains model.path"),
        ({"fuse.onlyDir": "llama", "model.bucket": ""}, "so nothing is mounted"),
        (
            {"slice": "v6e:4x4", "startupSeconds": 300},
            "server.groupStartTimeoutSeconds is 300, but startupSeconds is 300",
        ),
        (
            {"compileCache.storageClass": "fast", "replicas": 2},
            "leave it empty with several replicas",
        ),
        (
            {"compileCache.storageClass": "fast", "autoscaling.enabled": True},
            "autoscaling.enabled needs a compile cache for each pod",
        ),
        ({"monitoring.podMonitoring": False}, "set both or neither"),
        (
            {"autoscaling.enabled": True, "autoscalingMetric.shape": "endpoints"},
            "shape is endpoints, which feeds the gateway only",
        ),
        (
            {"server.extra": {"tracing": True}},
            "the network policy lets no span reach a collector; list its namespace in "
            "networkPolicy.egressNamespaces",
        ),
        ({"server.extra": {"tracing": "true"}}, "lets no span reach a collector"),
        ({"pools.grpc.enabled": True}, "a gateway would speak HTTP/1.1 to the gRPC port"),
        (
            {"picker.grpcParser": "vllmgrpc"},
            "picker.grpcParser is vllmgrpc, but this release has no picker for gRPC",
        ),
        ({"sliceChips": "claim", "slice": "cpu", "dranet.enabled": False}, "no chips to claim"),
        (
            {"sliceChips": "claim", "slice": "v6e:4x4", "server.groupSecret": "group"},
            "sliceChips is claim, but v6e:4x4 has 4 hosts",
        ),
        ({"sliceChips": "claim", "computeClass": COMPUTE_CLASS}, "make the node pool yourself"),
        ({"sliceAlternatives": ["v5e:2x2"]}, "sliceChips is devicePlugin, which cannot choose"),
        (
            {"sliceChips": "claim", "sliceAlternatives": ["v5e:2x4"]},
            'sliceAlternatives has "v5e:2x4"; use slices of one host with the topology of v6e:2x2',
        ),
        (
            {"sliceChips": "claim", "sliceAlternatives": ["v5e:2x2"]},
            "dranet.enabled is true, but sliceAlternatives has v5e:2x2",
        ),
        (
            {
                "sliceChips": "claim",
                "sliceAlternatives": ["v5e:2x2"],
                "dranet.enabled": False,
                "resources.memory": "160Gi",
            },
            "the machine of v5e:2x2, leaves pods 168 GiB",
        ),
        ({"picker.memoryLimit": "4095Mi"}, "picker.memoryLimit is 4095Mi, less than picker.memory"),
        (
            {"resources.cpuLimit": "7999m"},
            "resources.cpuLimit is 7999m, less than resources.cpu, 8",
        ),
        ({"picker.cpuLimit": "1"}, "picker.cpuLimit is 1, less than picker.cpu, 2"),
        ({"podLabels": {"antipode-server": "other"}}, "podLabels sets antipode-server"),
    ],
)
def test_values_that_do_not_fit_are_refused_in_a_sentence(changes, words):
    with pytest.raises(HelmError, match=re.escape(words)):
        render("antipode", merged(BASE, changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"regions": ["europe-west4"]}, "regions lists fewer than two"),
        ({"gke.preferredRegion": "asia-east1"}, "not among the regions"),
        ({"gke.capacityPercent": {"asia-east1": 0}}, '"asia-east1", which is not among the'),
        ({"tls.enabled": True}, "set tls.secretName"),
        ({"tls.secretName": "certificate"}, "requests would go unencrypted"),
        ({"pools.http": False, "pools.grpc": False}, "there is nothing to route to"),
        ({"healthCheck.timeoutSeconds": 9}, "longer than healthCheck.intervalSeconds"),
        ({"flavour": "envoy"}, "envoy.backends lists fewer than two"),
        ({"existingGateway": "gateway"}, "would claim the same requests; set one of them"),
        (
            {
                "existingGateway": "gateway",
                "hostnames": ["a.example"],
                "tls.enabled": True,
                "tls.secretName": "a",
            },
            "set tls at the release that made the Gateway",
        ),
        (
            {"commonLabels": {"app.kubernetes.io/instance": "x"}},
            "commonLabels sets app.kubernetes.io/instance, which the chart sets",
        ),
        (
            {"gke.addressPrefix": "a" * 52},
            "of 64 characters, and an address has a name of at most 63",
        ),
        ({"requestHeader.name": "X-Model"}, "requestHeader needs both a name and values"),
    ],
)
def test_a_gateway_that_does_not_fit_is_refused_in_a_sentence(changes, words):
    with pytest.raises(HelmError, match=re.escape(words)):
        render("antipode-gateway", merged(GATEWAY, changes))


@pytest.mark.parametrize(
    ("chart", "name", "value"),
    [
        ("antipode", "replica", 2),
        ("antipode", "server.maxNumSeq", 8),
        ("antipode", "replicas", "2"),
        ("antipode", "swap.mode", "inplace"),
        ("antipode", "slice", "v6e-2x2"),
        ("antipode", "sliceChips", "plugin"),
        ("antipode", "server.extra", {"max_que_len": 8}),
        ("antipode", "server.extra", {"http_port": 8080}),
        ("antipode", "server.hangTimeoutSeconds", 0),
        ("antipode", "server.groupSecret", "Not A Name"),
        ("antipode", "model.name", "chat@2"),
        ("antipode", "model.labels", {"canary": "v4"}),
        ("antipode", "model.labels", {'a: "1"\nversion': "4"}),
        ("antipode", "resources.memory", "64GB"),
        ("antipode", "fuse.fileCache", ""),
        ("antipode", "autoscaling.kvUsage", "80%"),
        ("antipode", "networkPolicy.proxyRanges", ["10.1.1.0/33"]),
        ("antipode", "networkPolicy.proxyRanges", ["999.1.1.0/24"]),
        ("antipode", "serviceAccount.name", "Not A Name"),
        ("antipode", "spotSeconds", 121),
        ("antipode", "extraEnv", [{"value": "nameless"}]),
        ("antipode", "fuse.onlyDir", "a,uid=0"),
        ("antipode", "picker.image", ""),
        ("antipode", "image.digest", "sha256:1234"),
        ("antipode", "objectives", [{"name": "X y", "priority": 1}]),
        ("antipode-gateway", "regions", ["us-east5", "us-east5"]),
        ("antipode-gateway", "gke.maxPercent", {"queue": 60}),
        ("antipode-gateway", "gke.maxPercent", {"device-busy": 60}),
        ("antipode-gateway", "gke.balancing", "RATE"),
        ("antipode-gateway", "flavour", "istio"),
    ],
)
def test_a_typo_is_refused(chart, name, value):
    base = BASE if chart == "antipode" else GATEWAY
    with pytest.raises(HelmError):
        render(chart, merged(base, {name: value}))


@pytest.mark.parametrize("chart", CHARTS)
def test_the_schema_knows_every_value(chart):
    """And no other: what it allows has a default in values.yaml."""

    def differences(schema, values, prefix=""):
        for key in schema["properties"].keys() ^ values.keys():
            yield prefix + key
        for key in schema["properties"].keys() & values.keys():
            if "properties" in schema["properties"][key]:
                yield from differences(schema["properties"][key], values[key], f"{prefix}{key}.")

    schema = yaml.safe_load((HELM / chart / "values.schema.json").read_text())
    values = yaml.safe_load((HELM / chart / "values.yaml").read_text())
    assert set(differences(schema, values)) == {"global"}


@pytest.mark.parametrize(("chart", "values"), [("antipode", BASE), ("antipode-gateway", GATEWAY)])
@pytest.mark.parametrize("release", ["a.b", "1st", "123", "Prod", "x" * 49])
def test_a_release_whose_objects_could_not_be_named_is_refused(chart, values, release):
    with pytest.raises(HelmError, match="are named after it"):
        render_files(chart, values, release)


def test_the_longest_name_that_is_taken_gives_names_that_kubernetes_takes():
    files = render_files("antipode", BASE, "x" * 48)
    objects = (
        one
        for name, text in files.items()
        if name.endswith(".yaml")
        for one in read_all(text)
        if one
    )
    services = [one for one in objects if one["kind"] == "Service"]
    assert 55 < max(len(one["metadata"]["name"]) for one in services) < 64


def test_a_setting_is_the_charts_own_or_one_of_server_extra():
    schema = yaml.safe_load((HELM / "antipode" / "values.schema.json").read_text())
    server = schema["properties"]["server"]["properties"]
    extra = set(server["extra"]["propertyNames"]["enum"])
    rendered = {
        variable["name"].removeprefix("ANTIPODE_").lower()
        for changes in ({}, {"swap.mode": "rollout", "sliceChips": "claim"})
        for values in (SEVERAL, merged(BASE, changes), case_values("antipode", "tls"))
        for pod in pods_of(render("antipode", values))
        for variable in pod["spec"]["containers"][0]["env"]
    }
    # Who the pod is, where it listens, and what the image sets.
    of_the_pod = {"hosts", "host_index", "host", "http_port", "grpc_port"}
    of_the_pod |= {"admin_port", "admin_grpc_port", "model_root"}
    assert not extra & rendered
    assert {setting.key for setting in settings()} == extra | rendered | of_the_pod
