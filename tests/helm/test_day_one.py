"""What operators meet on the first days: several releases, spot nodes, probes, labels, examples."""

from __future__ import annotations

import re

import pytest
import yaml
from helm_python import HelmError

from tests.helm.charts import (
    BASE,
    CHARTS,
    GATEWAY,
    HELM,
    PROJECT,
    case_values,
    find,
    merged,
    pods_of,
    read_all,
    render,
    render_files,
)
from tests.helm.schemas import is_core

ACCOUNT = "nodes@my-project.iam.gserviceaccount.com"
CLASS = {"create": True, "serviceAccount": ACCOUNT}
# Every optional object, without a ComputeClass that exists.
EVERYTHING = merged(case_values("antipode", "everything"), {"computeClass": CLASS})


def names(release, values, chart="antipode"):
    files = render_files(chart, values, release)
    texts = [text for name, text in files.items() if name.endswith(".yaml")]
    objects = [one for text in texts for one in read_all(text) if one]
    return [(one["kind"], one["metadata"]["name"]) for one in objects]


@pytest.mark.parametrize(
    ("chart", "values"), [("antipode", EVERYTHING), ("antipode-gateway", GATEWAY)]
)
def test_two_releases_in_one_namespace_share_no_object(chart, values):
    one, other = (names(release, values, chart) for release in ("chat", "code"))
    assert len(one) == len({*one})
    assert not {*one} & {*other}


@pytest.mark.parametrize("account", ["", "mine"])
def test_pods_use_the_account_of_their_release_unless_another_is_named(account):
    objects = render("antipode", merged(BASE, {"serviceAccount.name": account}))
    (pod,) = pods_of(objects)
    assert pod["spec"]["serviceAccountName"] == (account or "prod")
    assert find(objects, "ServiceAccount", account or "prod")


def test_the_fleet_lets_the_account_of_the_documented_release_read_the_buckets():
    variables = (PROJECT / "k8s/terraform/variables.tf").read_text()
    rendered = read_all((PROJECT / "k8s/rendered/us-east5.yaml").read_text())
    accounts = {one["metadata"]["name"] for one in rendered if one["kind"] == "ServiceAccount"}
    (account,) = re.findall(
        r'^variable "service_account".*?default += "(.*?)"', variables, re.MULTILINE | re.DOTALL
    )
    assert accounts == {account, f"{account}-picker"}


def test_a_class_that_the_chart_makes_is_named_after_namespace_and_release():
    objects = render("antipode", merged(BASE, {"computeClass": CLASS}))
    name = find(objects, "ComputeClass")["metadata"]["name"]
    (pod,) = pods_of(objects)
    assert re.fullmatch("llm-prod-[0-9a-f]{8}", name)
    assert pod["spec"]["nodeSelector"] == {"cloud.google.com/compute-class": name}


def test_a_spot_node_is_taken_where_the_drain_is_short_or_the_time_extended():
    spot = {"computeClass": CLASS | {"priorities": ["spot"]}}
    short = {"server.lameDuckSeconds": 5, "server.drainTimeoutSeconds": 10}
    for changes in (short, {"spotSeconds": 75}):
        assert find(render("antipode", merged(BASE, spot | changes)), "ComputeClass")


def test_the_spot_nodes_of_a_class_take_as_long_to_end_as_the_chart_counts_with():
    spot = {"computeClass": CLASS | {"priorities": ["onDemand", "spot"]}, "spotSeconds": 75}
    on_demand, spot_nodes = find(render("antipode", merged(BASE, spot)), "ComputeClass")["spec"][
        "priorities"
    ]
    kubelet = spot_nodes["nodeSystemConfig"]["kubeletConfig"]
    of_system = kubelet["shutdownGracePeriodCriticalPodsSeconds"]
    assert kubelet["shutdownGracePeriodSeconds"] - of_system == 75
    assert "nodeSystemConfig" not in on_demand


def test_the_nodes_of_a_class_run_as_their_own_account():
    objects = render("antipode", merged(BASE, {"computeClass": CLASS}))
    assert find(objects, "ComputeClass")["spec"]["nodePoolConfig"]["serviceAccount"] == ACCOUNT


def expressions(key, operator, *values):
    return {"matchExpressions": [{"key": key, "operator": operator, "values": [*values]}]}


GKE = "cloud.google.com"


@pytest.mark.parametrize(
    "terms",
    [
        expressions(f"{GKE}/gke-spot", "In", "true"),
        expressions(f"{GKE}/gke-spot", "Exists"),
        expressions(f"{GKE}/gke-preemptible", "In", "true"),
        expressions(f"{GKE}/gke-provisioning", "In", "standard", "spot"),
    ],
)
@pytest.mark.parametrize("is_required", [True, False])
def test_an_affinity_to_spot_nodes_counts(terms, is_required):
    key = "requiredDuringSchedulingIgnoredDuringExecution"
    node = {key: {"nodeSelectorTerms": [terms]}}
    if not is_required:
        node = {key.replace("required", "preferred"): [{"weight": 1, "preference": terms}]}
    with pytest.raises(HelmError, match="so streams would be cut"):
        render("antipode", merged(BASE, {"affinity": {"nodeAffinity": node}}))


@pytest.mark.parametrize(
    "toleration",
    [
        {"key": f"{GKE}/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"},
        {"key": f"{GKE}/gke-spot", "operator": "Exists"},
        {"operator": "Exists"},
    ],
)
def test_a_toleration_of_spot_nodes_counts(toleration):
    with pytest.raises(HelmError, match="so streams would be cut"):
        render("antipode", merged(BASE, {"tolerations": [toleration]}))


def test_an_affinity_away_from_spot_nodes_and_another_toleration_do_not_count():
    away = expressions(f"{GKE}/gke-spot", "NotIn", "true")
    node = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [away]}}
    other = {"key": "team", "operator": "Exists"}
    changes = {"affinity": {"nodeAffinity": node}, "tolerations": [other]}
    assert render("antipode", merged(BASE, changes))


def test_by_default_no_class_has_spot_nodes():
    objects = render("antipode", merged(BASE, {"computeClass": CLASS}))
    assert not any(one["spot"] for one in find(objects, "ComputeClass")["spec"]["priorities"])


def test_one_failed_probe_takes_no_replica_out():
    (pod,) = pods_of(render("antipode", BASE))
    (container,) = pod["spec"]["containers"]
    assert container["readinessProbe"]["failureThreshold"] == 2
    assert container["livenessProbe"]["failureThreshold"] >= 2


class TestEverything:
    @pytest.fixture
    def objects(self):
        return render("antipode", case_values("antipode", "everything"))

    def test_every_object_and_pod_has_the_common_labels_and_no_selector_has(self, objects):
        for one in objects:
            assert one["metadata"]["labels"]["team"] == "search"
            assert "team" not in str(one["spec"].get("selector") if "spec" in one else "")
        (pod,) = pods_of(objects)
        assert pod["metadata"]["labels"]["team"] == "search"

    def test_the_server_gets_variables_and_a_cpu_limit_that_no_value_is_for(self, objects):
        (container,) = pods_of(objects)[0]["spec"]["containers"]
        variables = {v["name"]: v["value"] for v in container["env"]}
        assert variables["HTTPS_PROXY"] == "http://proxy.example:3128"
        assert container["resources"]["limits"]["cpu"] == "16"

    def test_only_the_folder_is_mounted_and_the_model_is_where_it_was(self, objects):
        (pod,) = pods_of(objects)
        mounts = {m["name"]: m["mountPath"] for m in pod["spec"]["containers"][0]["volumeMounts"]}
        (volume,) = [one for one in pod["spec"]["volumes"] if one["name"] == "models"]
        variables = {v["name"]: v["value"] for v in pod["spec"]["containers"][0]["env"]}
        assert mounts["models"] == "/models/llama-3.1-8b"
        assert ",only-dir=llama-3.1-8b" in volume["csi"]["volumeAttributes"]["mountOptions"]
        assert variables["ANTIPODE_MODEL"] == "/models/llama-3.1-8b/3"

    def test_the_server_calls_the_ranges_that_were_given(self, objects):
        egress = find(objects, "NetworkPolicy", "prod")["spec"]["egress"]
        by_port = {rule["ports"][0]["port"]: rule["to"] for rule in egress}
        assert by_port[443] == [{"ipBlock": {"cidr": "199.36.153.8/30"}}]
        assert by_port[1] == [{"ipBlock": {"cidr": "10.9.0.0/16"}}]


# Functions whose answer is another one at each render.
_CHANGING = r"\b(?:lookup|now|rand(?:Alpha|AlphaNum|Numeric|Ascii|Bytes|Int)|gen[A-Z]\w+|uuidv4)\b"


@pytest.mark.parametrize("chart", CHARTS)
def test_every_helm_and_every_gitops_tool_reads_the_chart(chart):
    """Helm before 3.18 knows no later draft; Argo CD and Flux render again and again."""
    assert (
        '"http://json-schema.org/draft-07/schema#"'
        in (HELM / chart / "values.schema.json").read_text()
    )
    templates = "".join(
        path.read_text() for path in (HELM / chart / "templates").rglob("*") if path.is_file()
    )
    assert not re.findall(_CHANGING, templates)


def example(name):
    return yaml.safe_load((HELM / "examples" / f"{name}.yaml").read_text())


def test_the_cpu_example_needs_no_kind_that_a_plain_cluster_lacks():
    objects = render("antipode", example("cpu"))
    assert [one["kind"] for one in objects if not is_core(one)] == []
    (pod,) = pods_of(objects)
    assert not {"nodeSelector", "resourceClaims"} & pod["spec"].keys()


def variables_in_region(name):
    """The settings of a server whose example was added to a region's file."""
    values = yaml.safe_load((HELM / "regions" / "europe-west4.yaml").read_text())
    for key, part in example(name).items():
        values[key] = {**values[key], **part} if isinstance(values.get(key), dict) else part
    (pod,) = pods_of(render("antipode", values))
    return {v["name"]: v["value"] for v in pod["spec"]["containers"][0]["env"]}


def test_the_examples_of_gemma_say_whether_they_take_images():
    assert variables_in_region("gemma-3-12b")["ANTIPODE_MAX_IMAGES_PER_PROMPT"] == "0"
    variables = variables_in_region("medgemma-4b")
    assert variables["ANTIPODE_MAX_IMAGES_PER_PROMPT"] == "8"
    chip = (variables["ANTIPODE_SLICE_ACCELERATOR"], variables["ANTIPODE_SLICE_TOPOLOGY"])
    assert chip == ("v6e", "1x1")


def test_the_gemma_example_completes_a_regions_file_as_the_preset_recommends():
    preset = yaml.safe_load((PROJECT / "models/presets/gemma-3-12b.yaml").read_text())
    recommended = preset["recommended"]
    gemma = example("gemma-3-12b")
    variables = variables_in_region("gemma-3-12b")
    assert gemma["slice"] == recommended["slice"]
    assert variables["ANTIPODE_MAX_NUM_SEQS"] == str(recommended["max_num_seqs"])
    assert variables["ANTIPODE_KV_CONTEXT"] == str(recommended["context"])
