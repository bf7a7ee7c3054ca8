"""The endpoint pickers: what they choose by, and that a request of any kind gets past them."""

from __future__ import annotations

import re

import pytest
import yaml

from server.metrics.metrics import Metrics
from server.metrics.snapshot import Snapshot
from tests.helm.charts import BASE, find, merged, render


def config(pool):
    return yaml.safe_load(
        find(render("antipode", BASE), "ConfigMap", "prod-picker")["data"][f"{pool}.yaml"]
    )


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
            in container(render("antipode", BASE), pool)["args"]
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
            for one in config(pool)["plugins"]
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


def test_a_picker_restarts_only_when_its_own_configuration_changes():
    """Whatever else an upgrade changes: it reads its configuration once."""

    def annotations(changes, pool):
        objects = render("antipode", merged(BASE, changes))
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
