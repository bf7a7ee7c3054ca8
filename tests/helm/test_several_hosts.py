"""A slice of several hosts in the server's chart."""

from __future__ import annotations

import pytest
import yaml

from tests.helm.charts import BASE, SEVERAL, find, merged, pods_of, render
from tests.helm.schemas import KUBERNETES, validate_core


class TestSeveralHosts:
    """A slice of several hosts is a group of pods, whose leader alone serves."""

    @pytest.fixture
    def objects(self):
        return render("antipode", SEVERAL)

    @pytest.fixture
    def pods(self, objects):
        return pods_of(objects)

    @pytest.fixture
    def containers(self, pods):
        return [pod["spec"]["containers"][0] for pod in pods]

    def test_a_group_has_a_pod_for_each_host_and_a_node_pool_to_itself(self, objects):
        found = find(objects, "LeaderWorkerSet")
        group = found["spec"]["leaderWorkerTemplate"]
        assert (found["spec"]["replicas"], group["size"]) == (2, 4)
        topology = found["metadata"]["annotations"]
        assert topology["leaderworkerset.sigs.k8s.io/exclusive-topology"].endswith("gke-nodepool")
        deployed = {one["metadata"]["name"] for one in objects if one["kind"] == "Deployment"}
        assert deployed == {"prod-http-picker"}

    def test_the_pods_of_a_group_begin_together_and_end_together(self, objects):
        spec = find(objects, "LeaderWorkerSet")["spec"]
        assert spec["startupPolicy"] == "LeaderCreated"
        assert spec["leaderWorkerTemplate"]["restartPolicy"] == "RecreateGroupOnPodRestart"

    def test_the_headless_service_of_a_group_has_a_name_of_its_own(self, objects):
        """A shared one is called as the group is, and a Service of that name is there already."""
        spec = find(objects, "LeaderWorkerSet")["spec"]
        assert find(objects, "Service", "prod")["spec"].get("clusterIP") != "None"
        assert spec["networkConfig"]["subdomainPolicy"] == "UniquePerReplica"

    def test_kubernetes_knows_its_pods(self, pods):
        for pod in pods:
            pod["metadata"].pop("name", None)
            template = {"apiVersion": "v1", "kind": "PodTemplate", "template": pod}
            for version in KUBERNETES:
                validate_core({**template, "metadata": {"name": "pod"}}, version)

    def test_a_follower_has_no_ports_and_no_probes(self, containers):
        leader, follower = containers
        served = {"ports", "startupProbe", "readinessProbe", "livenessProbe"}
        assert served <= leader.keys()
        assert not served & follower.keys()

    def test_otherwise_leader_and_follower_differ_in_the_admin_token_alone(self, containers):
        leader, follower = containers
        names = [{v["name"] for v in one["env"]} for one in containers]
        mounts = [{m["name"] for m in one["volumeMounts"]} for one in containers]
        assert names[0] - names[1] == {"ANTIPODE_ADMIN_HOST", "ANTIPODE_ADMIN_TOKEN_FILE"}
        assert mounts[0] - mounts[1] == {"admin"}
        assert leader["resources"] == follower["resources"]

    def test_every_host_reads_the_same_secret_which_its_user_alone_may_read(self, pods):
        for pod in pods:
            (container,) = pod["spec"]["containers"]
            variables = {v["name"]: v["value"] for v in container["env"]}
            mounts = {m["name"]: m for m in container["volumeMounts"]}
            volumes = {v["name"]: v for v in pod["spec"]["volumes"]}
            assert variables["ANTIPODE_GROUP_SECRET_FILE"] == "/etc/antipode-group/secret"
            assert mounts["group"]["mountPath"] == "/etc/antipode-group"
            assert mounts["group"]["readOnly"]
            assert volumes["group"]["secret"] == {
                "secretName": "antipode-group",
                "defaultMode": 0o400,
                "items": [{"key": "secret", "path": "secret"}],
            }
            # A Secret's files belong to root: the group of the pod is who reads them.
            assert pod["spec"]["securityContext"]["fsGroup"] == 10001

    def test_jax_proves_hosts_by_the_coordinators_secret_and_does_not_go_on_without(self):
        objects = render("antipode", merged(SEVERAL, {"server.coordinatorSecret": "coordinator"}))
        for pod in pods_of(objects):
            (container,) = pod["spec"]["containers"]
            variables = {v["name"]: v["value"] for v in container["env"]}
            mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
            volumes = {v["name"]: v for v in pod["spec"]["volumes"]}
            secret = volumes["coordinator"]["secret"]
            assert (secret["secretName"], secret["defaultMode"]) == ("coordinator", 0o400)
            files = {f"{mounts['coordinator']}/{item['path']}" for item in secret["items"]}
            jax = {n: v for n, v in variables.items() if n.startswith("JAX_")}
            assert files == {v for n, v in jax.items() if n.endswith("_FILE")}
            assert jax["JAX_MTLS_PEER_URI_PREFIX"] == "spiffe://antipode/"
            assert jax["JAX_DISTRIBUTED_VERIFY_SECURE_CREDENTIALS"] == "true"

    def test_each_host_has_its_chips_and_interfaces_and_knows_the_whole_slice(self, pods):
        for pod in pods:
            (container,) = pod["spec"]["containers"]
            variables = {v["name"]: v["value"] for v in container["env"]}
            assert container["resources"]["limits"]["google.com/tpu"] == "4"
            assert variables["ANTIPODE_SLICE_CHIPS"] == "16"
            assert variables["ANTIPODE_GROUP_PORT"] == "9200"
            (claim,) = pod["spec"]["resourceClaims"]
            assert container["resources"]["claims"] == [{"name": claim["name"]}]

    def test_what_asks_or_reads_the_server_finds_leaders_alone(self, objects, pods):
        leader, follower = (pod["metadata"]["labels"].items() for pod in pods)
        asking = [
            find(objects, kind, name)["spec"]["selector"]["matchLabels"]
            for kind, name in (("InferencePool", "prod-http"), ("PodMonitoring", "prod"))
        ]
        (measured,) = find(objects, "AutoscalingMetric")["spec"]["metrics"]
        asking.append(measured["pod"]["selector"]["matchLabels"])
        asking.append(find(objects, "Service", "prod")["spec"]["selector"])
        for selector in asking:
            assert selector.items() <= leader
            assert not selector.items() <= follower

    def test_the_disruption_budget_counts_every_host(self, objects, pods):
        selector = find(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"]
        assert all(selector.items() <= pod["metadata"]["labels"].items() for pod in pods)

    def test_the_autoscaler_scales_groups(self):
        changes = {"autoscaling.enabled": True, "autoscalingMetric.shape": "metrics"}
        objects = render("antipode", merged(SEVERAL, changes))
        target = find(objects, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
        group = find(objects, "LeaderWorkerSet")
        assert (target["apiVersion"], target["kind"]) == (group["apiVersion"], group["kind"])
        assert "replicas" not in group["spec"]

    @pytest.mark.parametrize(
        ("changes", "groups"),
        [({}, 2), ({"autoscaling.enabled": True, "autoscalingMetric.shape": "metrics"}, 4)],
    )
    def test_only_a_groups_own_hosts_reach_its_ports(self, pods, changes, groups):
        objects = render("antipode", merged(SEVERAL, changes))
        policies = [
            find(objects, "NetworkPolicy", f"prod-group-{group}")["spec"] for group in range(groups)
        ]
        for group, policy in enumerate(policies):
            ours = policy["podSelector"]["matchLabels"]
            assert ours["leaderworkerset.sigs.k8s.io/group-index"] == str(group)
            for rule in (*policy["ingress"], *policy["egress"]):
                (peer,) = rule.get("from", rule.get("to"))
                assert peer == {"podSelector": {"matchLabels": ours}}
                assert {port["port"] for port in rule["ports"]} == {9200, 9201, 8471, 8476}
        assert all(
            policies[0]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
            for pod in pods
        )

    def test_one_host_has_nothing_of_a_group(self):
        text = yaml.safe_dump_all(render("antipode", BASE))
        assert "leaderworkerset" not in text
        assert "GROUP" not in text
