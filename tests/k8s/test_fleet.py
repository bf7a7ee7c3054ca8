"""The fleet script against a stand-in that remembers: what is made, once, in order, and goes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.k8s.cloud import PROJECT, SCRIPT, Cloud, asks, printed

SETTINGS = SCRIPT.with_name("settings.env").read_text()
CLUSTER = "container clusters europe-west4 antipode-europe-west4"
POOL = "container node-pools europe-west4 antipode-europe-west4 tpu"


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)


@pytest.fixture(scope="module")
def first_up(tmp_path_factory):
    """The first `up` of an empty project, to be looked at."""
    cloud = Cloud(tmp_path_factory.mktemp("cloud"))
    up = cloud.run("up")
    assert up.returncode == 0, up.stderr
    return cloud


@pytest.fixture
def built(cloud, first_up):
    """A cloud in which `up` has run."""
    cloud.things = first_up.things
    return cloud


def settings_with(folder, *replaced):
    """The path of settings in which each odd one has the next in its place."""
    text = SETTINGS
    for before, after in zip(replaced[::2], replaced[1::2], strict=True):
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    (folder / "settings.env").write_text(text)
    return str(folder / "settings.env")


def capacity(folder, words):
    return settings_with(folder, "\nCAPACITY=", f'\nCAPACITY="{words}"')


def made(cloud, *group):
    return [c for c in cloud.calls if {*group, "create"} < set(c) and asks(c)]


# Making.


def test_a_plan_prints_every_command_and_calls_nothing(cloud):
    run = cloud.run("plan")
    assert run.returncode == 0, run.stderr
    assert cloud.calls == []
    assert all(line.split()[1] in ("gcloud", "kubectl") for line in printed(run))


def test_up_does_what_the_plan_printed(cloud):
    planned = [line.replace("PROJECT_NUMBER", "123456") for line in printed(cloud.run("plan"))]
    up = cloud.run("up")
    assert up.returncode == 0, up.stderr
    assert printed(up) == planned


def test_both_regions_get_the_same(built):
    by_region = [
        sorted(t.replace(region, "R") for t in built.things if region in t)
        for region in ("europe-west4", "us-east5")
    ]
    assert by_region[0] == by_region[1] != []


def test_a_second_up_changes_nothing(built):
    before = built.things
    again = built.run("up")
    assert again.returncode == 0, again.stderr
    assert built.changes == []
    assert built.things == before


def test_up_goes_on_where_it_was_broken_off(built):
    things = built.things
    kept = ("compute networks", "container", "identity")
    built.things = {t: about for t, about in things.items() if t.startswith(kept)}
    rest = built.run("up")
    assert rest.returncode == 0, rest.stderr
    assert built.things == things
    assert not made(built, "container", "clusters")


def test_what_cannot_be_made_stops_up_with_the_reason(built):
    built.things = {t: about for t, about in built.things.items() if "us-east5" not in t}
    built.fails("gcloud container clusters create", "Insufficient regional quota")
    run = built.run("up")
    assert run.returncode == 1
    assert "Insufficient regional quota" in run.stderr
    assert "container clusters create" in built.changes[-1]


def test_clusters_are_private_and_switch_on_what_the_charts_use(first_up):
    addons = "--addons=GcsFuseCsiDriver,HttpLoadBalancing,HorizontalPodAutoscaling"
    wanted = {"--enable-private-nodes", addons, "--machine-type=e2-standard-4"}
    assert [wanted - set(call) for call in made(first_up, "container", "clusters")] == [set()] * 2


def test_a_tpu_node_is_upgraded_in_its_place(first_up):
    wanted = {"--max-surge-upgrade=0", "--max-unavailable-upgrade=1"}
    assert [wanted - set(call) for call in made(first_up, "node-pools")] == [set()] * 2


def test_nodes_may_pull_and_report_before_there_are_any(first_up):
    account = "--member=serviceAccount:123456-compute@developer.gserviceaccount.com"
    granted = [i for i, call in enumerate(first_up.calls) if account in call]
    cluster = first_up.calls.index(made(first_up, "container", "clusters")[0])
    assert len(granted) == 4
    assert max(granted) < cluster


FOUR_HOSTS = (
    *("TOPOLOGY=2x2\nCHIPS_PER_REPLICA=4", "TOPOLOGY=4x4\nCHIPS_PER_REPLICA=16"),
    *("HOSTS_PER_REPLICA=1\nREPLICAS=1", "HOSTS_PER_REPLICA=4\nREPLICAS=2"),
)


def test_a_slice_of_several_hosts_is_a_pool_of_its_own(cloud, tmp_path):
    manifest = ("MANIFEST=\n", "MANIFEST=lws.yaml\n")
    settings = settings_with(tmp_path, *FOUR_HOSTS, *manifest)
    run = cloud.run("up", "-f", settings)
    assert run.returncode == 0, run.stderr
    pools = [(c[c.index("create") + 1], "--num-nodes=4" in c) for c in made(cloud, "node-pools")]
    assert pools == [("tpu-0", True), ("tpu-1", True)] * 2
    assert cloud.run("up", "-f", settings).returncode == 0
    assert cloud.changes == []


def test_a_slice_of_several_hosts_needs_what_gke_does_not_bring(cloud, tmp_path):
    run = cloud.run("up", "-f", settings_with(tmp_path, *FOUR_HOSTS))
    assert run.returncode == 2
    assert "a slice of 4 hosts needs LeaderWorkerSet" in run.stderr
    assert cloud.calls == []


def test_more_replicas_than_nodes_are_told_with_the_command_that_adds_them(built, tmp_path):
    run = built.run("up", "-f", settings_with(tmp_path, "\nREPLICAS=1", "\nREPLICAS=3"))
    assert run.returncode == 0, run.stderr
    assert "clusters resize antipode-us-east5 --node-pool=tpu --num-nodes=3" in run.stderr


# Quota.


def test_too_little_quota_stops_before_anything_is_made(cloud):
    run = cloud.run("up", FAKE_QUOTA="2")
    assert run.returncode == 1
    assert "europe-west4 allows 2 TPU chips, but 4 are needed" in run.stderr
    assert not [call for call in cloud.changes if "services" not in call]


@pytest.mark.parametrize(("quota", "told"), [("", True), ("unlimited", True), ("-1", False)])
def test_a_quota_that_sets_no_limit_stops_nothing(built, quota, told):
    run = built.run("up", FAKE_QUOTA=quota)
    assert run.returncode == 0, run.stderr
    assert ("no TPU quota is listed for us-east5, so it is not checked" in run.stderr) == told


def test_a_quota_that_cannot_be_read_stops_nothing(built):
    built.fails("gcloud beta quotas", "Cloud Quotas API has not been used in project 123456 before")
    run = built.run("up")
    assert run.returncode == 0, run.stderr
    assert "Cloud Quotas API has not been used" in run.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--reservation-affinity=specific --reservation=mine", ""),
        ("--spot --enable-autoscaling", "the separate quota of spot and flex-start chips"),
    ],
)
def test_what_is_not_on_demand_is_not_asked_for_that_quota(cloud, tmp_path, words, told):
    run = cloud.run("up", "-f", capacity(tmp_path, words), FAKE_QUOTA="2")
    assert run.returncode == 0, run.stderr
    assert told in run.stderr
    assert set(words.split()) < set(made(cloud, "node-pools")[0])


def test_the_quota_of_other_machines_is_not_checked_and_that_is_told(built, tmp_path):
    settings = settings_with(tmp_path, "ct6e-standard-4t", "tpu7x-standard-4t")
    run = built.run("up", "-f", settings, FAKE_QUOTA="2")
    assert run.returncode == 0, run.stderr
    assert "the TPU quota of tpu7x-standard-4t is not checked" in run.stderr


# Stopping before it costs.

LOGGED_OUT = "You do not currently have an active account selected."


@pytest.mark.parametrize("mode", ["up", "down"])
def test_a_user_who_is_not_logged_in_reads_so(built, mode):
    built.fails("gcloud projects describe", LOGGED_OUT)
    run = built.run(mode)
    assert run.returncode == 1
    assert LOGGED_OUT in run.stderr
    assert built.changes == []


@pytest.mark.parametrize("mode", ["up", "down"])
@pytest.mark.parametrize(
    "denied",
    [
        "ResponseError: code=403, message=Required container.clusters.get permission",
        "Kubernetes Engine API has not been used in project 999 before or it is disabled: "
        "SERVICE_DISABLED",
    ],
    ids=["not permitted", "another project pays and has it off"],
)
def test_what_may_not_be_looked_at_does_not_count_as_absent(built, mode, denied):
    built.fails("gcloud container clusters describe", denied)
    run = built.run(mode)
    assert run.returncode == 1
    assert denied in run.stderr
    assert built.changes == []


def test_an_old_gcloud_stops_up_first(cloud):
    run = cloud.run("up", FAKE_HELP="--accelerator=[type=TYPE]")
    assert run.returncode == 1
    assert "this gcloud has no --accelerator-network-profile" in run.stderr
    assert cloud.changes == []


@pytest.mark.parametrize("tool", ["gcloud", "kubectl", "gke-gcloud-auth-plugin"])
def test_a_tool_that_is_not_installed_is_told(cloud, tool):
    (cloud.folder / tool).unlink()
    run = cloud.run("up")
    assert run.returncode == 1
    assert f"{tool} is not installed" in run.stderr
    assert cloud.calls == []


def test_another_network_of_that_name_is_not_built_into(cloud):
    cloud.things = {"compute networks  antipode": {"name": "antipode", "description": ""}}
    run = cloud.run("up")
    assert run.returncode == 1
    assert "the network antipode exists, but its description is not made-by-fleet.sh" in run.stderr
    assert not made(cloud, "compute")


@pytest.mark.parametrize("thing", [CLUSTER, POOL])
@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        ("RECONCILING", 0, ""),
        ("PROVISIONING", 1, "is still being made; run this script again when it is done"),
        (
            "ERROR",
            1,
            "is in state ERROR; repair it, or delete it and run this script again: gcloud",
        ),
        ("RUNNING_WITH_ERROR", 1, "is in state RUNNING_WITH_ERROR"),
    ],
)
def test_up_builds_only_on_what_runs(built, thing, status, code, words):
    built.alter(thing, status=status)
    run = built.run("up")
    assert run.returncode == code
    assert words in run.stderr
    if status == "ERROR":
        _, kind, *_, name = thing.split()
        assert f"gcloud container {kind} delete {name} --" in run.stderr
    assert built.changes == []


# Waiting for what Google makes.


def test_fleet_ingress_of_another_cluster_is_not_taken(built):
    other = "projects/123456/locations/global/memberships/other"
    built.alter("container fleet ingress", configMembership=other)
    run = built.run("up")
    assert run.returncode == 1
    assert f"fleet ingress is on with {other}" in run.stderr
    assert "gcloud container fleet ingress update --config-membership=projects/my-p" in run.stderr


def test_a_membership_that_is_told_with_the_projects_number_is_the_same(built):
    ours = "projects/123456/locations/europe-west4/memberships/antipode-europe-west4"
    built.alter("container fleet ingress", configMembership=ours)
    assert built.run("up").returncode == 0


def test_fleet_ingress_that_does_not_come_up_is_not_waited_for_forever(built):
    built.alter("container fleet ingress", code="WARNING")
    run = built.run("up")
    assert run.returncode == 1
    assert "fleet ingress was not there within 0 seconds" in run.stderr


@pytest.mark.parametrize("kind", ["deviceclass", "gatewayclass"])
def test_what_the_clusters_get_a_little_later_is_waited_for(built, kind):
    built.fails(f"kubectl get {kind}", "Error from server (NotFound)", times=2)
    run = built.run("up", WAIT_SECONDS="60")
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("waiting for") == 2


# Deleting.


def test_down_leaves_the_buckets_the_apis_and_the_roles(built):
    down = built.run("down")
    assert down.returncode == 0, down.stderr
    assert {t.split()[0] for t in built.things} == {"services", "identity", "iam", "storage"}
    assert "the buckets gs://my-project-models-*" in down.stdout


def test_down_takes_the_features_before_the_clusters_and_rules_before_the_network(built):
    built.alter("compute firewall-rules  mcsd-left-behind", name="mcsd-left-behind")
    assert built.run("down").returncode == 0
    order = [
        "kubectl delete gateways.gateway.networking.k8s.io,httproutes.gateway.networking.k8s.io,"
        "healthcheckpolicies.networking.gke.io,gcpbackendpolicies.networking.gke.io",
        "kubectl delete namespace antipode",
        "gcloud container fleet ingress disable",
        "gcloud container clusters delete antipode-europe-west4",
        "gcloud compute firewall-rules delete mcsd-left-behind",
        "gcloud compute networks delete antipode",
    ]
    positions = [built.changes.index(call) for call in order]
    assert positions == sorted(positions)


def test_down_of_nothing_changes_nothing(built):
    built.run("down")
    again = built.run("down")
    assert again.returncode == 0, again.stderr
    assert built.changes == []


def test_down_stops_where_a_cluster_does_not_answer(built):
    built.fails("kubectl get namespace", "Unable to connect to the server: i/o timeout")
    run = built.run("down")
    assert run.returncode == 1
    assert "Unable to connect to the server" in run.stderr
    assert built.changes == []


def test_where_an_api_was_never_switched_on_there_is_nothing(cloud):
    never = "API has not been used in project 123456 before or it is disabled"
    cloud.fails("gcloud container", never)
    run = cloud.run("down")
    assert run.returncode == 0, run.stderr
    assert cloud.changes == []


@pytest.mark.parametrize("status", ["ERROR", "PROVISIONING", "STOPPING"])
def test_down_does_not_look_into_a_cluster_that_does_not_run(built, status):
    built.alter(CLUSTER, status=status)
    run = built.run("down")
    assert run.returncode == 0, run.stderr
    assert CLUSTER not in built.things
    assert not [c for c in built.calls if c[0] == "kubectl" and "europe-west4" in c[1]]


SUBNET = "gcloud compute networks subnets delete"


def test_down_tries_a_network_that_is_in_use_three_times(built):
    built.fails(SUBNET, "The subnetwork resource is already being used", times=2)
    assert built.run("down").returncode == 0
    assert built.changes.count(f"{SUBNET} proxies-europe-west4") == 3


@pytest.mark.parametrize(
    "call",
    ["kubectl delete gateways", "gcloud compute firewall-rules delete"],
    ids=["gateways", "rules"],
)
def test_down_tries_everything_again_that_it_deletes(built, call):
    built.fails(call, "in use", times=2)
    run = built.run("down")
    assert run.returncode == 0, run.stderr


def test_down_tells_how_to_find_what_keeps_the_network(built):
    built.fails(SUBNET, "The subnetwork resource is already being used")
    run = built.run("down")
    assert run.returncode == 1
    assert built.changes.count(f"{SUBNET} proxies-europe-west4") == 3
    filtered = "list --filter='network~/antipode$' --project=my-project"
    for kind in ("forwarding-rules", "network-endpoint-groups"):
        assert f"gcloud compute {kind} {filtered}" in run.stderr


def test_down_leaves_a_network_that_up_did_not_make(built):
    built.alter("compute networks  antipode", description="")
    run = built.run("down")
    assert run.returncode == 0, run.stderr
    assert "the network and everything in it stay" in run.stderr
    assert not [call for call in built.changes if "compute" in call]


# Settings.


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "fleet.sh plan"),
        (("sideways",), 2, "fleet.sh plan"),
        (("up", "my.env"), 2, "fleet.sh plan"),
        (("plan", "-f", "/nowhere"), 2, "the settings file /nowhere cannot be read"),
    ],
)
def test_wrong_use_is_told(cloud, arguments, code, words):
    run = cloud.run(*arguments)
    assert run.returncode == code
    assert words in run.stderr
    assert cloud.calls == []


@pytest.mark.parametrize(
    "replaced",
    [
        ("TOPOLOGY=2x2", "TOPOLOGY=4x4"),
        ("CHIPS_PER_REPLICA=4", "CHIPS_PER_REPLICA=8"),
        ("HOSTS_PER_REPLICA=1", "HOSTS_PER_REPLICA=4"),
        ("MACHINE_TYPE=ct6e-standard-4t", "MACHINE_TYPE=ct6e-standard-8t"),
    ],
)
def test_a_slice_has_the_chips_of_its_hosts(cloud, tmp_path, replaced):
    run = cloud.run("plan", "-f", settings_with(tmp_path, *replaced))
    assert run.returncode == 2
    assert "are not the same number of chips" in run.stderr


MAY_BE_EMPTY = {"CAPACITY", "LEADER_WORKER_SET_MANIFEST", "INFERENCE_OBJECTIVE_CRD"}
NAMES = re.findall(r"^(\w+)=", SETTINGS, re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_that_is_missing_or_empty_is_told_first(cloud, tmp_path, name):
    settings = tmp_path / "settings.env"
    for left in ("", f"{name}=\n"):
        settings.write_text(re.sub(rf"^{name}=.*\n", left, SETTINGS, flags=re.MULTILINE))
        run = cloud.run("plan", "-f", str(settings))
        if name in MAY_BE_EMPTY:
            assert run.returncode == 0, run.stderr
        else:
            assert (run.returncode, run.stdout) == (2, "")
            assert f"{name} is not set in {settings}" in run.stderr


def test_the_config_region_is_one_of_the_regions(cloud, tmp_path):
    settings = settings_with(tmp_path, "CONFIG_REGION=europe-west4", "CONFIG_REGION=europe-west1")
    run = cloud.run("plan", "-f", settings)
    assert run.returncode == 2
    assert "CONFIG_REGION is europe-west1, which is not one of REGIONS" in run.stderr


# The script itself.

# Flags that an older gcloud does not know: `up` asks it first and stops.
NEWER = {"--accelerator-network-profile=auto"}


@pytest.mark.skipif(not shutil.which("gcloud"), reason="no gcloud is installed")
def test_gcloud_itself_takes_every_call(first_up, built, tmp_path):
    assert built.run("down").returncode == 0
    calls = [c for c in first_up.calls + built.calls if c[0] == "gcloud"]
    commands = {typed(word for word in call if word not in NEWER) for call in calls}
    assert refused_by_gcloud(commands, tmp_path) == {}


@pytest.mark.skipif(not shutil.which("gcloud"), reason="no gcloud is installed")
def test_gcloud_itself_refuses_what_the_stand_in_does(tmp_path):
    filtered = "gcloud storage buckets get-iam-policy gs://bucket --filter=a --project=my-project"
    assert list(refused_by_gcloud({filtered}, tmp_path)) == [filtered]


def typed(words):
    """The line as a shell wants it; gcloud's check knows a flag only without a quote before it."""
    return " ".join(re.sub(r"([^\w=:,./@-])", r"\\\1", word) for word in words)


def refused_by_gcloud(commands, folder):
    """What gcloud's own parser says of the commands that it refuses; none of them is run."""
    (folder / "commands.json").write_text(json.dumps([{"command_string": c} for c in commands]))
    linted = subprocess.run(
        ["gcloud", "meta", "lint-gcloud-commands", f"--commands-file={folder}/commands.json"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CLOUDSDK_CONFIG": str(folder)},
    )
    if linted.returncode != 0:
        pytest.skip(f"this gcloud does not check commands: {linted.stderr}")
    results = json.loads(linted.stdout)
    assert len(results) == len(commands)
    return {r["command_string"]: r["error_message"] for r in results if not r["success"]}


def test_shellcheck_finds_nothing():
    shellcheck = shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    assert shellcheck, "shellcheck is in the dev group"
    run = subprocess.run(
        [shellcheck, "--external-sources", str(SCRIPT)],
        capture_output=True,
        text=True,
        check=False,
        cwd=PROJECT,
    )
    assert run.stdout == ""


def test_nodes_whose_chips_are_claimed_have_the_label_that_switches_the_device_plugin_off(
    cloud, tmp_path
):
    claimed = ("SLICE_CHIPS=devicePlugin", "SLICE_CHIPS=claim")
    made = {
        chips: [line for line in printed(cloud.run("plan", "-f", path)) if "node-pools" in line]
        for chips, path in (
            ("claim", settings_with(tmp_path, *claimed)),
            ("devicePlugin", str(SCRIPT.with_name("settings.env"))),
        )
    }
    label = r"\,cloud.google.com/gke-tpu-dra-driver=true"
    assert all(label in line for line in made["claim"])
    assert [line.replace(label, "") for line in made["claim"]] == made["devicePlugin"]


def test_another_way_of_getting_chips_is_refused(cloud, tmp_path):
    path = settings_with(tmp_path, "SLICE_CHIPS=devicePlugin", "SLICE_CHIPS=plugin")
    run = cloud.run("plan", "-f", path)
    assert run.returncode == 2
    assert "SLICE_CHIPS is plugin; it must be devicePlugin or claim" in run.stderr
