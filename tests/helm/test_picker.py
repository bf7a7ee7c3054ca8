"""The endpoint pickers: what they choose by, and that a request of any kind gets past them."""

from __future__ import annotations

import re

import pytest
import yaml

from server.metrics.metrics import Metrics
from server.metrics.snapshot import Snapshot
from tests.helm.charts import BASE, find, merged, render

BOTH = merged(BASE, {"pools.grpc.enabled": True, "pools.appProtocol": True})


def config(pool, changes=None):
    objects = render("antipode", merged(BOTH, changes or {}))
    return yaml.safe_load(find(objects, "ConfigMap", "prod-picker")["data"][f"{pool}.yaml"])


def container(objects, pool):
    deployment = find(objects, "Deployment", f"prod-{pool}-picker")
    return deployment["spec"]["template"]["spec"]["containers"][0]


def served_metrics():
    return Metrics(model="tiny", version="1", release="0").render(Snapshot()).decode()


@pytest.mark.parametrize("pool", ["http", "grpc"])
class TestOfEachPool:
    def test_each_picker_reads_its_own_configuration(self, pool):
        assert (
            f"--config-file=/config/{pool}.yaml"
            in container(render("antipode", BOTH), pool)["args"]
        )

    def test_what_it_refers_to_is_there_and_nothing_else(self, pool):
        found = config(pool)
        plugins = {one["type"] for one in found["plugins"]}
        (profile,) = found["schedulingProfiles"]
        referred = [one["pluginRef"] for one in profile["plugins"]]
        referred += [one["pluginRef"] for one in found["requestHandler"]["parsers"]]
        # These two are found by their types.
        assert {*referred, "metrics-data-source", "core-metrics-extractor"} == plugins

    def test_a_request_that_no_parser_knows_is_passed_on(self, pool):
        """Else the picker answers it with an error, and so every call of our gRPC service."""
        assert config(pool)["requestHandler"]["parsers"][-1] == {"pluginRef": "passthrough-parser"}

    def test_what_it_reads_is_what_the_server_has(self, pool):
        (extractor,) = [
            one["parameters"]["engineConfigs"][0]
            for one in config(pool, {"picker.deviceBusyScorer": True})["plugins"]
            if one["type"] == "core-metrics-extractor"
        ]
        names = [
            extractor[f"{name}Spec"] for name in ("queuedRequests", "runningRequests", "kvUsage")
        ]
        names += [one["metricSpec"] for one in extractor["customMetrics"]]
        assert all(re.search(rf"^{name} ", served_metrics(), re.MULTILINE) for name in names)
        labels = ("cacheBlockSizeLabelName", "cacheNumBlocksLabelName")
        series = extractor["cacheInfoSpec"] + "".join(
            rf"(?=.*{extractor[label]}=\"0\")" for label in labels
        )
        assert re.search(series, served_metrics())


def test_only_http_requests_have_a_prompt_that_it_can_read():
    assert "prefix-cache-scorer" in {one["type"] for one in config("http")["plugins"]}
    assert "prefix-cache-scorer" not in {one["type"] for one in config("grpc")["plugins"]}
    assert "openai-parser" not in {one["type"] for one in config("grpc")["plugins"]}


def test_the_grpc_picker_reads_the_prompts_of_the_engine_protocol_only_if_asked():
    asked = config("grpc", {"picker.grpcParser": "vllmgrpc"})
    parsers = [one["pluginRef"] for one in asked["requestHandler"]["parsers"]]
    # A call that the first does not claim, such as one of antipode.v1, is for the second.
    assert parsers == ["vllmgrpc-parser", "passthrough-parser"]
    types = [one["type"] for one in asked["plugins"]]
    assert {*parsers, "prefix-cache-scorer"} <= {*types}
    weights = {one["pluginRef"]: one["weight"] for one in asked["schedulingProfiles"][0]["plugins"]}
    assert weights["prefix-cache-scorer"] == 3
    assert config("http") == config("http", {"picker.grpcParser": "vllmgrpc"})
    assert "vllmgrpc-parser" not in str(config("grpc"))


def test_a_picker_restarts_only_when_its_own_configuration_changes():
    """Whatever else an upgrade changes: it reads its configuration once."""

    def annotations(changes, pool):
        objects = render("antipode", merged(BOTH, changes))
        return find(objects, "Deployment", f"prod-{pool}-picker")["spec"]["template"]["metadata"][
            "annotations"
        ]

    before, after = (annotations({"model.version": version}, "http") for version in "34")
    assert before == after
    assert annotations({}, "http") != annotations({}, "grpc")


def test_a_picker_may_watch_objectives_under_their_old_name_too():
    """Where a cluster has only that, a picker watches it, and ends if it may not."""
    rules = find(render("antipode", BASE), "Role", "prod-picker")["rules"]
    groups = {group for rule in rules for group in rule["apiGroups"] if "objectives" in str(rule)}
    assert groups == {"llm-d.ai", "inference.networking.x-k8s.io"}


def test_a_picker_has_node_settings_of_its_own():
    changes = {"picker.nodeSelector": {"pool": "small"}, "picker.tolerations": [{"key": "small"}]}
    objects = render("antipode", merged(BASE, changes))
    spec = find(objects, "Deployment", "prod-http-picker")["spec"]["template"]["spec"]
    assert spec["nodeSelector"] == {"pool": "small"}
    assert spec["tolerations"] == [{"key": "small"}]


class TestSeveralPickers:
    """Of several pickers of a pool one leads; only the leader is ready."""

    @pytest.fixture
    def objects(self):
        return render("antipode", BASE)

    @pytest.fixture
    def spec(self, objects):
        return find(objects, "Deployment", "prod-http-picker")["spec"]

    def test_one_of_two_pickers_is_elected_and_may_hold_the_lease(self, objects, spec):
        assert spec["replicas"] == 2
        assert "--ha-enable-leader-election" in container(objects, "http")["args"]
        rules = find(objects, "Role", "prod-picker")["rules"]
        (lease,) = [rule for rule in rules if rule["resources"] == ["leases"]]
        assert {"create", "update", "delete"} <= {*lease["verbs"]}

    def test_a_picker_that_does_not_lead_is_alive_and_not_ready(self, objects):
        probes = container(objects, "http")
        assert probes["livenessProbe"]["grpc"]["service"] == "liveness"
        assert probes["readinessProbe"]["grpc"]["service"] == "readiness"

    def test_neither_a_rollout_nor_a_drain_waits_for_a_second_ready_picker(self, objects, spec):
        assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == "100%"
        labels = spec["template"]["metadata"]["labels"].items()
        budgets = [one["spec"] for one in objects if one["kind"] == "PodDisruptionBudget"]
        assert budgets
        assert not any(one["selector"]["matchLabels"].items() <= labels for one in budgets)

    def test_pickers_of_a_pool_are_on_different_nodes_where_there_are_some(self, spec):
        (spread,) = spec["template"]["spec"]["topologySpreadConstraints"]
        labels = spec["template"]["metadata"]["labels"].items()
        assert spread["labelSelector"]["matchLabels"].items() <= labels
        assert spread["topologyKey"] == "kubernetes.io/hostname"

    def test_a_picker_without_others_elects_nobody(self):
        objects = render("antipode", merged(BASE, {"picker.replicas": 1}))
        assert "--ha-enable-leader-election" not in container(objects, "http")["args"]
        assert "leases" not in str(find(objects, "Role", "prod-picker"))
        deployment = find(objects, "Deployment", "prod-http-picker")["spec"]
        assert deployment["strategy"] == {"type": "Recreate"}


@pytest.mark.parametrize("pool", ["http", "grpc"])
def test_requests_in_flight_count_and_a_busy_device_only_if_asked(pool):
    def scorers(changes):
        objects = render("antipode", merged(BOTH, changes))
        found = yaml.safe_load(find(objects, "ConfigMap", "prod-picker")["data"][f"{pool}.yaml"])
        (profile,) = found["schedulingProfiles"]
        by = {one["pluginRef"]: one["weight"] for one in profile["plugins"]}
        return by, "--allow-experimental-plugins" in container(objects, pool)["args"]

    by, is_experimental = scorers({})
    assert by["active-request-scorer"] == 2
    assert "endpoint-attribute-scorer" not in by
    assert not is_experimental
    by, is_experimental = scorers({"picker.deviceBusyScorer": True})
    assert by["endpoint-attribute-scorer"] == 1
    assert is_experimental


def test_a_picker_shows_no_profiles_and_logs_json():
    args = container(render("antipode", BASE), "http")["args"]
    assert {"--enable-pprof=false", "--zap-encoder=json"} <= {*args}


def test_a_picker_has_room_for_bursts_and_as_much_time_as_it_takes_to_end():
    objects = render("antipode", BASE)
    resources = container(objects, "http")["resources"]
    assert resources["requests"] == {"cpu": "2", "memory": "4Gi"}
    assert resources["limits"] == {"memory": "8Gi"}
    pod = find(objects, "Deployment", "prod-http-picker")["spec"]["template"]["spec"]
    assert 30 < pod["terminationGracePeriodSeconds"] < 60


def test_the_service_of_a_picker_names_its_protocol():
    (port,) = find(render("antipode", BASE), "Service", "prod-http-picker")["spec"]["ports"]
    assert port["appProtocol"] == "kubernetes.io/h2c"


def test_a_picker_is_reached_only_by_those_who_need_a_port_of_it():
    objects = render("antipode", BOTH)
    policy = find(objects, "NetworkPolicy", "prod-picker")["spec"]
    (component,) = policy["podSelector"]["matchExpressions"]
    for pool in ("http", "grpc"):
        labels = find(objects, "Deployment", f"prod-{pool}-picker")["spec"]["template"]["metadata"]
        assert labels["labels"]["app.kubernetes.io/component"] in component["values"]
    opened = {rule["ports"][0]["port"]: rule["from"] for rule in policy["ingress"]}
    ranges = {
        port: [peer["ipBlock"]["cidr"] for peer in peers if "ipBlock" in peer]
        for port, peers in opened.items()
    }
    assert ranges[9002] == ["10.1.1.0/24", "10.1.2.0/24"]
    assert ranges[9003] == ["130.211.0.0/22", "35.191.0.0/16"]
    assert "gmp-system" in str(opened[9090])
    assert opened.keys() == {9002, 9003, 9090}
