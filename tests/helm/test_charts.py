"""What the charts render: valid objects, what differs between regions, and what is refused."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import helm_python
import pytest
import yaml
from helm_python import HelmError

from server.api._pb.antipode.v1 import generation_pb2
from server.config import load_config, settings
from server.metrics import Gauges, Metrics
from server.plan.slices import find_slice
from tests.helm.charts import (
    CASES,
    CHARTS,
    HELM,
    PROJECT,
    case_values,
    find,
    merged,
    pods_of,
    render,
    render_files,
)
from tests.helm.schemas import (
    KUBERNETES,
    OWN,
    crd_folder,
    crd_schemas,
    is_core,
    validate_core,
    validate_crd,
    validate_own,
)

BASE = case_values("antipode", "v6e-2x2")
SEVERAL = case_values("antipode", "v6e-4x4")
GATEWAY = case_values("antipode-gateway", "gke")
COMPUTE_CLASS = {"name": "tpu", "create": True}
OF_THE_CLUSTER = ("ComputeClass", "GlobalRules")
EXPORTED = ("kv-cache", "queue", "device-busy")


@pytest.fixture(scope="module")
def custom_resources():
    folder = crd_folder()
    if folder is None:
        pytest.skip("CRD_SCHEMAS names no folder with custom resource definitions")
    return crd_schemas(folder)


@pytest.mark.parametrize(("chart", "case"), CASES)
class TestEveryCase:
    def test_it_lints_strictly(self, chart, case):
        result = helm_python.lint(HELM / chart, values=case_values(chart, case), strict=True)
        assert [m for m in result["messages"] if m["severity"] > 1] == []

    @pytest.mark.parametrize("version", KUBERNETES)
    def test_kubernetes_knows_its_objects(self, chart, case, version):
        core = [one for one in render(chart, case_values(chart, case)) if is_core(one)]
        for one in core:
            validate_core(one, version)
        assert core or chart == "antipode-gateway"

    def test_kinds_without_a_public_definition_are_as_documented(self, chart, case):
        for one in render(chart, case_values(chart, case)):
            if one["kind"] in OWN:
                validate_own(one)

    def test_custom_resources_are_as_defined(self, chart, case, custom_resources):
        for one in render(chart, case_values(chart, case)):
            if not is_core(one) and one["kind"] not in OWN:
                validate_crd(one, custom_resources)

    def test_everything_is_in_the_releases_namespace_and_labelled(self, chart, case):
        for one in render(chart, case_values(chart, case)):
            assert one["kind"] in OF_THE_CLUSTER or one["metadata"]["namespace"] == "llm"
            assert one["metadata"]["labels"]["app.kubernetes.io/instance"] == "prod"

    def test_notes_name_commands(self, chart, case):
        notes = render_files(chart, case_values(chart, case))[f"{chart}/templates/NOTES.txt"]
        assert "kubectl -n llm" in notes


def yamllint(*arguments: str, text: str | None = None) -> str:
    """What yamllint says; nothing if all is well."""
    program = shutil.which("yamllint", path=str(Path(sys.executable).parent))
    assert program, "yamllint is in the dev group"
    command = [program, "--strict", "--config-file", str(PROJECT / ".yamllint.yaml"), *arguments]
    run = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    return run.stdout + run.stderr


@pytest.mark.parametrize(("chart", "case"), CASES)
def test_yamllint_finds_nothing_in_what_is_rendered(chart, case):
    files = render_files(chart, case_values(chart, case))
    manifests = [text.strip() for name, text in files.items() if name.endswith(".yaml")]
    # Helm splits them at these lines and trims what is between.
    text = "".join(f"---\n{one.removeprefix('---').strip()}\n" for one in manifests if one)
    assert yamllint("-", text=text) == ""


def test_yamllint_finds_nothing_in_what_is_written_by_hand_or_checked_in():
    found = [path for place in ("helm", "k8s") for path in (PROJECT / place).rglob("*.yaml")]
    files = [str(path) for path in found if "templates" not in path.parts]
    assert len(files) > 10
    assert yamllint(*files) == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image.repository": ""}, "image.repository is empty"),
        ({"model.version": ""}, "model.name, model.path and model.version must all be set"),
        ({"model.path": "llama/3"}, 'model.path "llama/3" ends in a version'),
        ({"model.path": "gs://b/llama", "model.bucket": ""}, "leave out gs://"),
        ({"terminationGracePeriodSeconds": 75}, "allow at least 85, or leave it at 0"),
        ({"slice": "v6e:3x3"}, 'slice "v6e:3x3" is not one this chart can place; use v5e:1x1'),
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
            "together more than the 4 chips of v6e:2x2",
        ),
        ({"server.tensorParallelSize": 3}, "which does not divide the 4 chips of v6e:2x2"),
        ({"slice": "v5e:2x2"}, "on v6e and v7x only"),
        ({"slice": "cpu"}, "the slice is cpu; set dranet.enabled to false"),
        ({"computeClass.create": True}, "set computeClass.name"),
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
            "which one pod can mount, and v6e:4x4 has 4 hosts",
        ),
        ({"server.groupPort": 8470}, "but 8471 is the server's or libtpu's"),
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
        ({"autoscaling.enabled": True}, "shape is endpoints, which feeds the gateway only"),
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
        ({"tls.enabled": True}, "set tls.secretName"),
        ({"pools.http": False, "pools.grpc": False}, "there is nothing to route to"),
        ({"healthCheck.timeoutSeconds": 9}, "longer than healthCheck.intervalSeconds"),
        ({"flavour": "envoy"}, "envoy.backends lists fewer than two"),
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
    """And no other: what it allows has a default and a comment in values.yaml."""

    def names(schema, prefix=""):
        for key, one in schema.get("properties", {}).items():
            yield prefix + key
            yield from names(one, f"{prefix}{key}.")

    def keys(values, prefix=""):
        for key, one in values.items():
            yield prefix + key
            if isinstance(one, dict):
                yield from keys(one, f"{prefix}{key}.")

    schema = yaml.safe_load((HELM / chart / "values.schema.json").read_text())
    values = yaml.safe_load((HELM / chart / "values.yaml").read_text())
    assert set(names(schema)) - {"global"} == set(keys(values))


class TestRegions:
    REGIONS = ("europe-west4", "us-east5")

    def rendered(self, region):
        return render("antipode", yaml.safe_load((HELM / "regions" / f"{region}.yaml").read_text()))

    @pytest.mark.parametrize("region", REGIONS)
    def test_its_file_suffices(self, region):
        assert find(self.rendered(region), "Deployment", "prod")

    def test_each_reads_the_bucket_that_the_fleet_makes_in_its_region(self):
        settings = (PROJECT / "k8s" / "fleet" / "settings.env").read_text()
        (bucket,) = re.findall(r"^BUCKET=(.*)$", settings, re.MULTILINE)
        for region in self.REGIONS:
            values = yaml.safe_load((HELM / "regions" / f"{region}.yaml").read_text())
            assert values["model"]["bucket"] == f"{bucket}-{region}"

    def test_nothing_differs_but_the_region(self):
        europe, america = (yaml.safe_dump_all(self.rendered(region)) for region in self.REGIONS)
        assert europe != america
        assert europe.replace(*self.REGIONS) == america


class TestPod:
    @pytest.fixture
    def pod(self):
        (pod,) = pods_of(render("antipode", BASE))
        return pod

    @pytest.fixture
    def container(self, pod):
        (container,) = pod["spec"]["containers"]
        return container

    @pytest.mark.parametrize(("chart", "case"), [c for c in CASES if c[0] == "antipode"])
    def test_the_server_takes_every_variable(self, chart, case):
        for pod in pods_of(render(chart, case_values(chart, case))):
            variables = {v["name"]: v["value"] for v in pod["spec"]["containers"][0]["env"]}
            known = {setting.variable for setting in settings()}
            assert {name for name in variables if name.startswith("ANTIPODE_")} <= known
            config = load_config({}, variables)
            assert config.engine.model_config == "/etc/antipode/model.yaml"

    @pytest.mark.parametrize(("given", "seconds"), [(0, 165), (600, 600)])
    def test_its_grace_period_follows_from_the_drain(self, given, seconds):
        changes = {"server.drainTimeoutSeconds": 135, "terminationGracePeriodSeconds": given}
        (pod,) = pods_of(render("antipode", merged(BASE, changes)))
        assert pod["spec"]["terminationGracePeriodSeconds"] == seconds

    def test_it_asks_for_all_chips_of_the_slice(self, pod, container):
        assert pod["spec"]["nodeSelector"] == {
            "cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice",
            "cloud.google.com/gke-tpu-topology": "2x2",
        }
        resources = container["resources"]
        assert resources["requests"]["google.com/tpu"] == "4"
        assert resources["limits"]["google.com/tpu"] == "4"

    def test_it_lists_the_claim_for_pod_and_container(self, pod, container):
        objects = render("antipode", BASE)
        claim = find(objects, "ResourceClaimTemplate")["metadata"]["name"]
        (of_pod,) = pod["spec"]["resourceClaims"]
        assert of_pod["resourceClaimTemplateName"] == claim
        assert container["resources"]["claims"] == [{"name": of_pod["name"]}]

    def test_the_mount_forgets_metadata(self, pod):
        (models,) = [v for v in pod["spec"]["volumes"] if v["name"] == "models"]
        assert models["csi"]["volumeAttributes"]["metadataCacheTTLSeconds"] == "60"
        assert pod["metadata"]["annotations"]["gke-gcsfuse/volumes"] == "true"

    def test_it_writes_to_volumes_only(self, container):
        assert container["securityContext"]["readOnlyRootFilesystem"]
        written = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
        assert written == {"/var/cache/antipode", "/tmp", "/dev/shm"}

    def test_the_admin_ports_open_with_a_token_alone(self):
        def pod_of(changes):
            (pod,) = pods_of(render("antipode", merged(BASE, changes)))
            return pod["spec"]["containers"][0]

        closed, opened = pod_of({}), pod_of({"admin.tokenSecret": "admin"})
        variables = {v["name"]: v["value"] for v in opened["env"]}
        assert {p["containerPort"] for p in opened["ports"]} >= {8001, 9001}
        assert variables["ANTIPODE_ADMIN_TOKEN_FILE"] == "/etc/antipode-admin/token"
        assert "/etc/antipode-admin" in {m["mountPath"] for m in opened["volumeMounts"]}
        assert not {v["name"] for v in closed["env"]} & {"ANTIPODE_ADMIN_HOST"}
        assert not {p["containerPort"] for p in closed["ports"]} & {8001, 9001}

    def test_its_probes_are_routes_of_the_server(self, container):
        source = (PROJECT / "server" / "api" / "http").rglob("*.py")
        routes = " ".join(path.read_text() for path in source)
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert f'"{container[probe]["httpGet"]["path"]}"' in routes

    def test_a_compute_class_takes_the_place_of_the_selectors(self):
        objects = render("antipode", merged(BASE, {"computeClass.name": "tpu"}))
        (pod,) = pods_of(objects)
        assert pod["spec"]["nodeSelector"] == {"cloud.google.com/compute-class": "tpu"}

    def test_a_compute_class_is_made_of_the_slice_in_the_order_asked_for(self):
        objects = render("antipode", case_values("antipode", "compute-class"))
        found = find(objects, "ComputeClass")
        for pod in pods_of(objects):
            assert pod["spec"]["nodeSelector"] == {
                "cloud.google.com/compute-class": found["metadata"]["name"]
            }
        rules = found["spec"]["priorities"]
        of_slice = {"type": "tpu-v6e-slice", "count": 4, "topology": "4x4"}
        assert all(rule["machineType"] == "ct6e-standard-4t" for rule in rules)
        assert all(rule["tpu"] == of_slice for rule in rules)
        assert rules[0]["reservations"]["specific"] == [{"name": "my-reservation"}]
        assert rules[1]["spot"] is False
        assert rules[2]["flexStart"] == {"enabled": True}
        assert rules[3]["spot"] is True

    @pytest.mark.parametrize("is_on", [True, False])
    def test_a_compute_class_brings_interfaces_where_they_are_claimed(self, is_on):
        changes = {"computeClass": COMPUTE_CLASS, "dranet.enabled": is_on}
        spec = find(render("antipode", merged(BASE, changes)), "ComputeClass")["spec"]
        assert ("nodePoolConfig" in spec) == is_on
        assert all(("acceleratorNetworkProfile" in one) == is_on for one in spec["priorities"])

    @pytest.mark.parametrize(("mode", "is_rolled"), [("inPlace", False), ("rollout", True)])
    def test_a_version_changes_the_pods_only_for_a_rollout(self, mode, is_rolled):
        one, two = (
            find(
                render("antipode", merged(BASE, {"swap.mode": mode, "model.version": version})),
                "Deployment",
                "prod",
            )
            for version in ("3", "4")
        )
        assert (one != two) == is_rolled


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
        assert deployed == {"prod-http-picker", "prod-grpc-picker"}

    def test_it_begins_together_and_goes_together(self, objects):
        spec = find(objects, "LeaderWorkerSet")["spec"]
        assert spec["startupPolicy"] == "LeaderCreated"
        assert spec["leaderWorkerTemplate"]["restartPolicy"] == "RecreateGroupOnPodRestart"

    def test_its_headless_service_has_a_name_of_its_own(self, objects):
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
            selector
            for one in objects
            if one["kind"] in ("InferencePool", "PodMonitoring", "AutoscalingMetric")
            for selector in [one["spec"]["selector"]["matchLabels"]]
        ]
        asking.append(find(objects, "Service", "prod")["spec"]["selector"])
        assert len(asking) == 5
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
                assert {port["port"] for port in rule["ports"]} == {9200, 9201, 8471}
        assert all(
            policies[0]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
            for pod in pods
        )

    def test_one_host_has_nothing_of_a_group(self):
        text = yaml.safe_dump_all(render("antipode", BASE))
        assert "leaderworkerset" not in text
        assert "GROUP" not in text


@pytest.mark.parametrize(
    "name",
    re.findall(
        r"^(v\w+:[x\d]+):", (HELM / "antipode/templates/_helpers.tpl").read_text(), re.MULTILINE
    ),
)
def test_the_charts_slices_are_those_of_the_plan(name):
    changes = {"slice": name, "dranet.enabled": False}
    objects = render("antipode", merged(BASE, changes))
    container = pods_of(objects)[0]["spec"]["containers"][0]
    group = [one["spec"] for one in objects if one["kind"] == "LeaderWorkerSet"]
    hosts = group[0]["leaderWorkerTemplate"]["size"] if group else 1
    known = find_slice(name)
    assert hosts == known.hosts
    chips = int(container["resources"]["limits"]["google.com/tpu"]) * hosts
    assert chips == known.devices // known.chip.devices_per_chip


def test_pools_select_the_server_and_are_exported():
    objects = render("antipode", BASE)
    labels = pods_of(objects)[0]["metadata"]["labels"]
    for name, port, protocol in (
        ("prod-http", 8000, "http"),
        ("prod-grpc", 9000, "kubernetes.io/h2c"),
    ):
        pool = find(objects, "InferencePool", name)
        assert pool["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert pool["spec"]["targetPorts"] == [{"number": port}]
        assert pool["spec"]["appProtocol"] == protocol
        assert pool["metadata"]["annotations"]["networking.gke.io/export"] == "True"
        picker = pool["spec"]["endpointPickerRef"]["name"]
        assert find(objects, "Service", picker)["spec"]["ports"][0]["port"] == 9002


def test_no_selector_of_servers_takes_a_picker_or_a_test():
    objects = render("antipode", BASE)
    selector = find(objects, "InferencePool", "prod-http")["spec"]["selector"]["matchLabels"]
    pods = [one["metadata"]["labels"] for one in objects if one["kind"] == "Pod"]
    pods += [
        one["spec"]["template"]["metadata"]["labels"]
        for one in objects
        if one["kind"] == "Deployment" and one["metadata"]["name"] != "prod"
    ]
    assert len(pods) == 3
    assert not [labels for labels in pods if selector.items() <= labels.items()]


def test_every_metric_that_is_named_is_one_the_server_has():
    text = yaml.safe_dump_all(render("antipode", case_values("antipode", "everything")))
    text += (HELM / "antipode" / "files" / "dashboard.json").read_text()
    metrics = Metrics(model="tiny", version="1", release="0").render(Gauges(state="ready"))
    served = set(re.findall(r"^antipode_[a-z_]+", metrics.decode(), re.MULTILINE))
    assert set(re.findall(r"antipode_[a-z_]+", text)) <= served


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
    assert {name for *_, name in read} <= set(EXPORTED)
    assert "replicas" not in find(objects, "Deployment", "prod")["spec"]


def test_the_policy_opens_a_port_to_those_who_need_it():
    policy = find(render("antipode", case_values("antipode", "network-policy")), "NetworkPolicy")
    ranges, clients, admin, scraping = policy["spec"]["ingress"]
    assert [peer["ipBlock"]["cidr"] for peer in ranges["from"]] == [
        "35.191.0.0/16",
        "10.1.1.0/24",
        "10.1.2.0/24",
    ]
    assert len(clients["from"]) == 3
    assert admin["from"] == [{"podSelector": {}}]
    ports = [{port["port"] for port in rule["ports"]} for rule in policy["spec"]["ingress"]]
    assert ports == [{8000, 9000}, {8000, 9000}, {8001, 9001}, {8000}]
    assert "podSelector" not in scraping["from"][0]


def test_regions_are_balanced_by_requests_in_flight_if_asked():
    objects = render("antipode-gateway", case_values("antipode-gateway", "gke-in-flight"))
    for name in ("prod-http", "prod-grpc"):
        policy = find(objects, "GCPBackendPolicy", name)["spec"]["default"]
        assert policy["balancingMode"] == "IN_FLIGHT"
        assert policy["maxInFlightRequestsPerEndpoint"] == 64
        assert "customMetrics" not in policy


def test_the_gateway_ends_tls_if_asked():
    objects = render("antipode-gateway", case_values("antipode-gateway", "gke-tls"))
    (listener,) = find(objects, "Gateway")["spec"]["listeners"]
    assert (listener["protocol"], listener["port"]) == ("HTTPS", 443)
    assert listener["tls"]["certificateRefs"] == [{"name": "gateway-certificate"}]


def test_the_gateway_routes_to_what_the_pools_export():
    backends = [
        rule["backendRefs"][0]["name"]
        for one in render("antipode-gateway", merged(GATEWAY, {"release": "prod"}))
        if one["kind"] == "HTTPRoute"
        for rule in one["spec"]["rules"]
    ]
    pools = {
        one["metadata"]["name"]
        for one in render("antipode", BASE)
        if one["kind"] == "InferencePool"
    }
    assert set(backends) == pools


def test_envoy_asks_each_pool_in_its_own_protocol_whether_it_is_ready():
    objects = render("antipode-gateway", case_values("antipode-gateway", "envoy"))
    routes = {one["metadata"]["name"] for one in objects if one["kind"] == "HTTPRoute"}
    checks = {
        policy["spec"]["targetRefs"][0]["name"]: policy["spec"]["healthCheck"]["active"]
        for policy in objects
        if policy["kind"] == "BackendTrafficPolicy"
    }
    assert checks.keys() == routes == {"prod-http", "prod-grpc"}
    assert checks["prod-http"]["http"]["path"] == "/readyz"
    service = generation_pb2.DESCRIPTOR.services_by_name["Generation"].full_name
    assert checks["prod-grpc"]["grpc"] == {"service": service}


def test_the_gateways_drain_is_as_long_as_the_servers():
    server = yaml.safe_load((HELM / "antipode" / "values.yaml").read_text())["server"]
    gateway = yaml.safe_load((HELM / "antipode-gateway" / "values.yaml").read_text())
    assert gateway["drainSeconds"] == server["drainTimeoutSeconds"]
    check = gateway["healthCheck"]
    seen_after = check["intervalSeconds"] * check["unhealthyThreshold"]
    assert server["lameDuckSeconds"] > seen_after


def test_what_is_checked_in_is_what_the_charts_give():
    from scripts import charts

    for path, text in charts.generated().items():
        assert Path(path).read_text() == text, f"{path} is stale: run make charts"


class TestWhatOthersReadOfTheServer:
    """Names that a picker or an alert reads must be the server's, or they read nothing."""

    def test_the_picker_finds_the_cache_and_its_labels(self):
        config = find(render("antipode", BASE), "ConfigMap", "prod-picker")["data"]["picker.yaml"]
        (extractor,) = [
            one["parameters"]["engineConfigs"][0]
            for one in yaml.safe_load(config)["plugins"]
            if one["type"] == "core-metrics-extractor"
        ]
        labels = ("cacheBlockSizeLabelName", "cacheNumBlocksLabelName")
        series = re.compile(
            extractor["cacheInfoSpec"]
            + "".join(rf"(?=.*{extractor[label]}=\"0\")" for label in labels)
        )
        assert series.search(
            Metrics(model="tiny", version="1", release="0").render(Gauges()).decode()
        )

    def test_no_ready_replica_is_told_without_any_pod(self):
        rules = find(render("antipode", BASE), "Rules")["spec"]["groups"][0]["rules"]
        (rule,) = [one for one in rules if one["alert"] == "AntipodeNoReadyReplica"]
        assert "or vector(0)" in rule["expr"]

    def test_only_a_global_rule_compares_regions(self):
        inside = find(render("antipode", BASE), "Rules")["spec"]["groups"][0]["rules"]
        across = find(render("antipode-gateway", GATEWAY), "GlobalRules")["spec"]["groups"]
        assert not any("version_serving" in one["expr"] for one in inside)
        assert 'antipode_model_version_serving{namespace="llm"}' in across[0]["rules"][0]["expr"]
