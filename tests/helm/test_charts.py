"""What the charts render: valid objects, what differs between regions, and what is refused."""

from __future__ import annotations

import math
import re
from pathlib import Path

import helm_python
import pytest
import yaml
from yamllint.config import YamlLintConfig
from yamllint.linter import run as yamllint_of

from server.config.config import settings
from server.config.sources import load_config
from server.plan.slice_types import find_slice
from tests.helm.charts import (
    BASE,
    CASES,
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

COMPUTE_CLASS = {"name": "tpu", "create": True, "serviceAccount": "default"}
OF_THE_CLUSTER = ("ComputeClass", "GlobalRules")


@pytest.fixture(scope="module")
def custom_resources():
    folder = crd_folder()
    if folder is None:
        pytest.skip("CRD_SCHEMAS names no folder with custom resource definitions")
    return crd_schemas(folder)


@pytest.mark.parametrize(("chart", "case"), CASES)
class TestEveryCase:
    def test_every_chart_lints_strictly_in_every_case(self, chart, case):
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


LINT_RULES = YamlLintConfig(file=str(PROJECT / ".yamllint.yaml"))


def yamllint(text: str) -> list[str]:
    """What yamllint says, warnings included; nothing if all is well."""
    return [str(problem) for problem in yamllint_of(text, LINT_RULES)]


@pytest.mark.parametrize(("chart", "case"), CASES)
def test_yamllint_finds_nothing_in_what_is_rendered(chart, case):
    files = render_files(chart, case_values(chart, case))
    manifests = [text.strip() for name, text in files.items() if name.endswith(".yaml")]
    # Helm splits them at these lines and trims what is between.
    text = "".join(f"---\n{one.removeprefix('---').strip()}\n" for one in manifests if one)
    assert yamllint(text) == []


def test_yamllint_finds_what_breaks_a_rule():
    assert yamllint("---\na: 1\na: 2\n")


def test_yamllint_finds_nothing_in_what_is_written_by_hand_or_checked_in():
    found = [path for place in ("helm", "k8s") for path in (PROJECT / place).rglob("*.yaml")]
    files = [path for path in found if "templates" not in path.parts]
    assert len(files) > 10
    assert {path: said for path in files if (said := yamllint(path.read_text()))} == {}


class TestRegions:
    REGIONS = ("europe-west4", "us-east5")

    def rendered(self, region):
        return render("antipode", yaml.safe_load((HELM / "regions" / f"{region}.yaml").read_text()))

    @pytest.mark.parametrize("region", REGIONS)
    def test_the_values_file_of_a_region_suffices(self, region):
        assert find(self.rendered(region), "Deployment", "prod")

    def test_nothing_differs_but_the_region(self):
        europe, america = (
            yaml.safe_dump_all(self.rendered(region), width=math.inf) for region in self.REGIONS
        )
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
            by_file = config.engine.model_config == "/etc/antipode/model.yaml"
            assert by_file != config.engine.model.endswith("/llama-3.1-8b/3")

    @pytest.mark.parametrize(("given", "seconds"), [(0, 165), (600, 600)])
    def test_the_grace_period_of_the_pod_follows_from_the_drain(self, given, seconds):
        changes = {"server.drainTimeoutSeconds": 135, "terminationGracePeriodSeconds": given}
        (pod,) = pods_of(render("antipode", merged(BASE, changes)))
        assert pod["spec"]["terminationGracePeriodSeconds"] == seconds

    def test_the_pod_asks_for_all_chips_of_the_slice(self, pod, container):
        assert pod["spec"]["nodeSelector"] == {
            "cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice",
            "cloud.google.com/gke-tpu-topology": "2x2",
        }
        resources = container["resources"]
        assert resources["requests"]["google.com/tpu"] == "4"
        assert resources["limits"]["google.com/tpu"] == "4"

    def test_the_claim_is_listed_for_pod_and_container(self, pod, container):
        objects = render("antipode", BASE)
        claim = find(objects, "ResourceClaimTemplate")["metadata"]["name"]
        (of_pod,) = pod["spec"]["resourceClaims"]
        assert of_pod["resourceClaimTemplateName"] == claim
        assert container["resources"]["claims"] == [{"name": of_pod["name"]}]

    def test_the_mount_forgets_metadata(self, pod):
        (models,) = [v for v in pod["spec"]["volumes"] if v["name"] == "models"]
        assert models["csi"]["volumeAttributes"]["metadataCacheTTLSeconds"] == "60"
        assert pod["metadata"]["annotations"]["gke-gcsfuse/volumes"] == "true"

    def test_the_pod_writes_to_volumes_only(self, container):
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

    def test_the_image_may_be_named_by_digest_and_be_pulled_with_secrets(self):
        digest = "sha256:" + "0" * 64
        changes = {"image.digest": digest, "image.pullSecrets": ["registry"]}
        objects = render("antipode", merged(BASE, changes))
        (pod,) = pods_of(objects)
        image = pod["spec"]["containers"][0]["image"]
        assert image == f"{BASE['image']['repository']}@{digest}"
        picker = find(objects, "Deployment", "prod-http-picker")["spec"]["template"]
        (test,) = [one for one in objects if one["kind"] == "Pod"]
        for each in (pod, picker, test):
            assert each["spec"]["imagePullSecrets"] == [{"name": "registry"}]

    def test_the_pod_is_placed_and_labelled_as_asked(self):
        spread = [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}]
        changes = {
            "nodeSelector": {"pool": "a"},
            "affinity": {"nodeAffinity": {}},
            "topologySpreadConstraints": spread,
            "priorityClassName": "high",
            "podLabels": {"team": "search"},
            "podAnnotations": {"note": "yes"},
        }
        (pod,) = pods_of(render("antipode", merged(BASE, changes)))
        assert pod["spec"]["nodeSelector"]["pool"] == "a"
        assert "cloud.google.com/gke-tpu-topology" in pod["spec"]["nodeSelector"]
        assert pod["spec"]["affinity"] == {"nodeAffinity": {}}
        assert pod["spec"]["topologySpreadConstraints"] == spread
        assert pod["spec"]["priorityClassName"] == "high"
        assert pod["metadata"]["labels"]["team"] == "search"
        assert pod["metadata"]["annotations"]["note"] == "yes"

    def test_the_service_account_may_stand_for_one_of_google(self):
        account = {"iam.gke.io/gcp-service-account": "models@project.example"}
        objects = render("antipode", merged(BASE, {"serviceAccount.annotations": account}))
        assert find(objects, "ServiceAccount", "prod")["metadata"]["annotations"] == account

    @pytest.mark.parametrize(
        ("is_root", "user", "added"), [(False, 10001, None), (True, 0, ["SYS_RESOURCE"])]
    )
    def test_the_pod_is_root_only_if_asked_with_one_capability(self, is_root, user, added):
        (pod,) = pods_of(render("antipode", merged(BASE, {"security.asRoot": is_root})))
        context = pod["spec"]["containers"][0]["securityContext"]
        assert pod["spec"]["securityContext"]["runAsUser"] == user
        assert pod["spec"]["securityContext"]["runAsNonRoot"] == (not is_root)
        assert context["capabilities"].get("add") == added
        assert not context["allowPrivilegeEscalation"]

    def test_a_start_is_not_called_failed_before_it_may_be(self):
        spec = find(render("antipode", BASE), "Deployment", "prod")["spec"]
        probe = spec["template"]["spec"]["containers"][0]["startupProbe"]
        patience = probe["periodSeconds"] * probe["failureThreshold"]
        assert patience >= 1800
        assert spec["progressDeadlineSeconds"] > patience

    def test_a_region_may_be_emptied(self):
        spec = find(render("antipode", merged(BASE, {"replicas": 0})), "Deployment", "prod")["spec"]
        assert spec["replicas"] == 0

    def test_the_probes_of_the_pod_are_routes_of_the_server(self, container):
        source = (PROJECT / "server" / "api" / "servers").rglob("*.py")
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
        assert ("dra" in spec["nodePoolConfig"]) == is_on
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


@pytest.mark.parametrize(
    "name",
    re.findall(
        r"^(v\w+:[x\d]+):", (HELM / "antipode/templates/_machines.tpl").read_text(), re.MULTILINE
    ),
)
def test_the_charts_slices_are_those_of_the_plan(name):
    changes = {"slice": name, "dranet.enabled": False, "server.groupSecret": "group"}
    changes |= {"resources.memory": "16Gi", "fuse.fileCache": "16Gi"}
    objects = render("antipode", merged(BASE, changes))
    container = pods_of(objects)[0]["spec"]["containers"][0]
    group = [one["spec"] for one in objects if one["kind"] == "LeaderWorkerSet"]
    hosts = group[0]["leaderWorkerTemplate"]["size"] if group else 1
    known = find_slice(name)
    assert hosts == known.hosts
    chips = int(container["resources"]["limits"]["google.com/tpu"]) * hosts
    assert chips == known.devices // known.chip.devices_per_chip


def test_pools_select_the_server_and_are_exported():
    both = {"pools.grpc.enabled": True, "pools.appProtocol": True}
    objects = render("antipode", merged(BASE, both))
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
    both = {"pools.grpc.enabled": True, "pools.appProtocol": True}
    objects = render("antipode", merged(BASE, both))
    selector = find(objects, "InferencePool", "prod-http")["spec"]["selector"]["matchLabels"]
    pods = [one["metadata"]["labels"] for one in objects if one["kind"] == "Pod"]
    pods += [
        one["spec"]["template"]["metadata"]["labels"]
        for one in objects
        if one["kind"] == "Deployment" and one["metadata"]["name"] != "prod"
    ]
    assert len(pods) == 3
    assert not [labels for labels in pods if selector.items() <= labels.items()]


def test_the_policy_opens_a_port_to_those_who_need_it():
    objects = render("antipode", case_values("antipode", "network-policy"))
    policy = find(objects, "NetworkPolicy", "prod")
    clients, ranges, admin, scraping = policy["spec"]["ingress"]
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


def test_no_rule_of_the_policy_is_open_to_everyone():
    nobody = {"networkPolicy.healthCheckRanges": [], "networkPolicy.proxyRanges": []}
    nothing = {"pools.http.enabled": False, "service.export": False}
    for changes in ({}, nobody | nothing):
        objects = render("antipode", merged(BASE, changes))
        policies = [one["spec"] for one in objects if one["kind"] == "NetworkPolicy"]
        assert len(policies) == 2 - bool(changes)
        for policy in policies:
            assert all(rule["from"] for rule in policy["ingress"])
            assert all(rule["to"] for rule in policy.get("egress", []))


@pytest.mark.parametrize(("name", "may"), [("v6e-2x2", True), ("cpu", False)])
def test_without_a_bucket_a_tpu_may_still_ask_the_metadata_server(name, may):
    values = merged(case_values("antipode", name), {"model.bucket": ""})
    egress = find(render("antipode", values), "NetworkPolicy", "prod")["spec"]["egress"]
    asked = [port["port"] for rule in egress for port in rule["ports"]]
    assert (80 in asked) == may
    assert 443 not in asked


def test_the_service_is_as_asked_and_exported_if_asked():
    changes = {
        "service.type": "LoadBalancer",
        "service.annotations": {"a": "b"},
        "networkPolicy.clientRanges": ["10.0.0.0/8"],
    }
    objects = render("antipode", merged(BASE, changes))
    service = find(objects, "Service", "prod")
    assert service["spec"]["type"] == "LoadBalancer"
    assert service["metadata"]["annotations"] == {"a": "b"}
    assert find(objects, "ServiceExport")["metadata"]["name"] == "prod"
    assert "10.0.0.0/8" in str(find(objects, "NetworkPolicy", "prod")["spec"]["ingress"])
    alone = render("antipode", merged(BASE, {"service.export": False}))
    assert not [one for one in alone if one["kind"] == "ServiceExport"]


def test_what_is_checked_in_is_what_the_charts_give():
    from scripts import charts

    for path, text in charts.generated():
        assert Path(path).read_text() == text, f"{path} is stale: run make charts"
