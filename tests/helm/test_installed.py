"""The charts, by Helm's own engine into a stand-in for a cluster, with the README's commands.

What a cluster's controllers would make of the objects is not in it.
"""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from helm_python import HelmError

from tests.helm.charts import GATEWAY, HELM, SEVERAL, case_values, merged, pods_of, render
from tests.helm.fake_cluster import FakeCluster
from tests.helm.installing import CHART, NAMESPACE, RELEASE, helm, install, set_version
from tests.helm.schemas import KUBERNETES, is_core, validate_core

type Values = dict[str, Any]

EVERYTHING = case_values("antipode", "everything")


def region(name: str) -> Values:
    return yaml.safe_load((HELM / "regions" / f"{name}.yaml").read_text())


def changed(before: Values, after: Values) -> set[tuple[str, str]]:
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


@pytest.mark.parametrize("name", ["europe-west4", "us-east5"])
def test_one_values_file_and_one_command_install_a_region(name):
    cluster = FakeCluster()
    with helm(cluster) as config:
        installed = install(config, region(name))
        assert installed["status"] == "deployed"
        assert "helm test prod -n llm" in installed["notes"]
    rendered = {
        (one["kind"], one["metadata"]["name"])
        for one in render("antipode", region(name))
        if "helm.sh/hook" not in one["metadata"].get("annotations", {})
    }
    assert cluster.specs().keys() == rendered | {("Namespace", NAMESPACE)}
    for one in cluster.objects.values():
        if is_core(one) and one["kind"] != "Namespace":
            validate_core({k: v for k, v in one.items() if k != "status"}, KUBERNETES[0])


@pytest.mark.parametrize("values", [EVERYTHING, SEVERAL], ids=["everything", "several-hosts"])
def test_what_is_installed_goes_again(values):
    cluster = FakeCluster()
    with helm(cluster) as config:
        install(config, values)
        assert len(cluster.objects) > 15
        config.uninstall(RELEASE)
    assert [one["kind"] for one in cluster.objects.values()] == ["Namespace"]


def test_the_gateway_is_installed_beside_the_server():
    cluster = FakeCluster()
    with helm(cluster) as config:
        config.install(CHART, "antipode", region("europe-west4"), namespace=NAMESPACE)
        install(config, GATEWAY, chart="antipode-gateway")
    assert cluster.find("Gateway", RELEASE)
    exported = {
        name for kind, name in cluster.specs() if kind in ("InferencePool", "ServiceExport")
    }
    routed = [
        route["spec"]["rules"][0]["backendRefs"][0]["name"]
        for (kind, name) in cluster.specs()
        if kind == "HTTPRoute"
        for route in [cluster.find(kind, name)]
    ]
    assert set(routed) == exported


class TestAnotherVersion:
    def changes(self, values: Values) -> set[tuple[str, str]]:
        cluster = FakeCluster()
        with helm(cluster) as config:
            install(config, values)
            before = cluster.specs()
            set_version(config, "4")
            after = cluster.specs()
            config.rollback(RELEASE)
            assert cluster.specs() == before
            assert [one["revision"] for one in config.history(RELEASE)] == [1, 2, 3]
        return changed(before, after)

    def test_a_swap_in_place_changes_the_file_and_no_pod(self):
        values = merged(region("us-east5"), {"swap.mode": "inPlace"})
        assert self.changes(values) == {("ConfigMap", "prod-model")}

    def test_a_rollout_changes_the_servers_pods_too_and_no_picker(self):
        values = merged(region("us-east5"), {"swap.mode": "rollout"})
        assert self.changes(values) == {("Deployment", RELEASE)}

    def test_a_rollout_leaves_pods_on_the_version_they_were_made_with(self):
        """A file would change under them, at the latest when their container starts again."""
        objects = render("antipode", merged(region("us-east5"), {"swap.mode": "rollout"}))
        (pod,) = pods_of(objects)
        (container,) = pod["spec"]["containers"]
        variables = {v["name"]: v["value"] for v in container["env"]}
        assert variables["ANTIPODE_MODEL"] == "/models/llama-3.1-8b/1"
        assert variables["ANTIPODE_SERVED_MODEL_NAME"] == "llama-3.1-8b"
        assert "model-config" not in {mount["name"] for mount in container["volumeMounts"]}
        assert not [one for one in objects if one["metadata"]["name"] == "prod-model"]


def test_other_interfaces_are_another_claim_since_a_claim_cannot_change():
    cluster = FakeCluster()
    with helm(cluster) as config:
        install(config, region("us-east5"))
        (before,) = [name for kind, name in cluster.specs() if kind == "ResourceClaimTemplate"]
        values = {"dranet": {"allocationMode": "ExactCount", "count": 1}}
        config.upgrade(CHART, RELEASE, values, reuse_values=True, namespace=NAMESPACE)
        (after,) = [name for kind, name in cluster.specs() if kind == "ResourceClaimTemplate"]
    assert before != after
    pod = cluster.find("Deployment", RELEASE)["spec"]["template"]["spec"]
    assert pod["resourceClaims"][0]["resourceClaimTemplateName"] == after


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        ("inference.networking.k8s.io/v1", "InferencePool"),
        ("monitoring.googleapis.com/v1", "PodMonitoring"),
        ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"),
    ],
)
def test_a_cluster_that_lacks_a_kind_is_told_and_left_as_it_was(version, kind):
    cluster = FakeCluster(without=(version,))
    with helm(cluster) as config, pytest.raises(HelmError, match=f'no matches for kind "{kind}"'):
        install(config, SEVERAL)
    assert not cluster.objects


class TestTheTestHook:
    """`helm test` makes a pod and waits for its end, which a kubelet would bring about."""

    @pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
    def test_the_test_hook_ends_as_its_pod_does(self, phase):
        made = []

        def end(thing: dict[str, Any]) -> None:
            if thing["kind"] == "Pod":
                made.append(thing["metadata"]["name"])
                thing["status"] = {"phase": phase}

        cluster = FakeCluster(on_change=end)
        with helm(cluster) as config:
            install(config, region("us-east5"))
            if phase == "Succeeded":
                config.test(RELEASE, timeout=30)
            else:
                with pytest.raises(HelmError):
                    config.test(RELEASE, timeout=30)
        assert made == ["prod-generate"]
