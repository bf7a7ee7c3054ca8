"""The fleet script against a stand-in that remembers: what it prepares, waits for and deletes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.k8s.cloud import FLEET, PROJECT, REGIONS, SCRIPT, Cloud, printed
from tests.k8s.terraform.configuration import modules, texts

CLUSTER = "cluster europe-west4 antipode-europe-west4"
GATEWAYS = (
    "europe-west4 delete gateways.gateway.networking.k8s.io,httproutes.gateway.networking.k8s.io,"
    "healthcheckpolicies.networking.gke.io,gcpbackendpolicies.networking.gke.io"
)
OPENED = [f"{region} create namespace antipode" for region in REGIONS]
EACH_REGIONS_GATEWAY = [GATEWAYS.replace("europe-west4", region, 1) for region in REGIONS]
CLOSED = [f"{region} delete namespace antipode" for region in REGIONS]


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)


@pytest.fixture
def apart(cloud):
    """A cloud in which `open` has run, where prompts stay in their region."""
    cloud.fleet = FLEET.replace("RESIDENCY=any", "RESIDENCY=region")
    assert cloud.run("open").returncode == 0
    return cloud


@pytest.fixture
def opened(cloud):
    """A cloud in which `open` has run."""
    run = cloud.run("open")
    assert run.returncode == 0, run.stderr
    return cloud


# Opening.


def test_a_plan_prints_every_command_and_calls_neither_gcloud_nor_kubectl(cloud):
    run = cloud.run("plan", "-m", "lws.yaml")
    assert run.returncode == 0, run.stderr
    assert {call[0] for call in cloud.calls} == {"terraform"}
    assert cloud.run("open", "-m", "lws.yaml").returncode == 0
    assert printed(cloud.run("plan", "-m", "lws.yaml")) == printed(run)


def test_open_does_what_the_plan_printed(cloud):
    planned = printed(cloud.run("plan"))
    up = cloud.run("open")
    assert up.returncode == 0, up.stderr
    assert printed(up) == planned
    assert cloud.changes == OPENED


def test_a_second_open_changes_nothing(opened):
    again = opened.run("open")
    assert again.returncode == 0, again.stderr
    assert opened.changes == []


def test_a_new_region_is_opened_and_the_others_stay(opened):
    kept = {t: about for t, about in opened.things.items() if "us-east5 namespace" not in t}
    opened.things = kept
    assert opened.run("open").returncode == 0
    assert opened.changes == ["us-east5 create namespace antipode"]


def test_manifests_are_applied_in_every_cluster(cloud):
    run = cloud.run("open", "-m", "lws.yaml", "-m", "objectives.yaml")
    assert run.returncode == 0, run.stderr
    files = [word for call in cloud.calls for word in call if word.startswith("--filename=")]
    assert files == ["--filename=lws.yaml", "--filename=objectives.yaml"] * 2


def test_slices_of_several_hosts_need_what_gke_does_not_bring(cloud):
    cloud.fleet = FLEET.replace("HOSTS_PER_REPLICA=1", "HOSTS_PER_REPLICA=4")
    run = cloud.run("open")
    assert run.returncode == 1
    assert "slices of 4 hosts need LeaderWorkerSet" in run.stderr
    assert cloud.run("open", "-m", "lws.yaml").returncode == 0


@pytest.mark.parametrize("kind", ["deviceclass", "gatewayclass"])
def test_what_the_clusters_get_a_little_later_is_waited_for(cloud, kind):
    cloud.fails(f"kubectl get {kind}", "Error from server (NotFound)", times=2)
    run = cloud.run("open", WAIT_SECONDS="60")
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("waiting for") == 2


def test_machines_without_dranet_wait_for_no_device_class(cloud):
    cloud.fleet = FLEET.replace("DRANET=true", "DRANET=false")
    assert cloud.run("open").returncode == 0
    assert not [call for call in cloud.calls if "deviceclass" in call]


def test_fleet_ingress_that_does_not_come_up_is_not_waited_for_forever(cloud):
    cloud.alter("fleet ingress", code="WARNING")
    run = cloud.run("open")
    assert run.returncode == 1
    assert "fleet ingress was not there within 0 seconds" in run.stderr


def test_clusters_of_another_name_are_opened(cloud):
    cloud.fleet = FLEET.replace("PREFIX=antipode\n", "PREFIX=search\n")
    cloud.things = {thing.replace("antipode", "search"): a for thing, a in cloud.things.items()}
    run = cloud.run("open")
    assert run.returncode == 0, run.stderr
    asked = [call[4] for call in cloud.calls if "get-credentials" in call]
    assert asked == [f"search-{region}" for region in REGIONS]
    assert "antipode-gateway in search-europe-west4" in run.stdout


# Closing.


def test_close_takes_the_gateway_before_the_namespaces(opened):
    run = opened.run("close", "-y")
    assert run.returncode == 0, run.stderr
    assert opened.changes == [GATEWAYS, *CLOSED]
    assert "terraform destroy" in run.stdout


def test_close_of_one_region_touches_neither_the_gateway_nor_the_others(opened):
    run = opened.run("close", "-y", "us-east5")
    assert run.returncode == 0, run.stderr
    assert opened.changes == ["us-east5 delete namespace antipode"]


def test_the_region_of_the_config_cluster_is_not_closed_alone(opened):
    run = opened.run("close", "-y", "europe-west4")
    assert run.returncode == 2
    assert "europe-west4 has the config cluster; set config_region to another" in run.stderr
    assert opened.changes == []


@pytest.mark.parametrize("typed", ["", "yes\n", "other-project\n"])
def test_close_deletes_nothing_without_the_projects_name(opened, typed):
    run = opened.run("close", typed=typed)
    assert run.returncode == 1
    assert "deletes the namespace antipode with everything in it, in europe-west4 us-" in run.stderr
    assert "nothing was deleted" in run.stderr
    assert opened.changes == []


def test_close_goes_on_when_the_projects_name_is_typed(opened):
    assert opened.run("close", typed="my-project\n").returncode == 0
    assert opened.changes == [GATEWAYS, *CLOSED]


def test_a_second_close_changes_nothing(opened):
    opened.run("close", "-y")
    again = opened.run("close", "-y")
    assert again.returncode == 0, again.stderr
    assert opened.changes == []


def test_close_stops_where_a_cluster_does_not_answer(opened):
    opened.fails("kubectl get namespace", "Unable to connect to the server: i/o timeout")
    run = opened.run("close", "-y")
    assert run.returncode == 1
    assert "Unable to connect to the server" in run.stderr
    assert opened.changes == []


@pytest.mark.parametrize("status", ["ERROR", "PROVISIONING", "STOPPING"])
def test_close_does_not_look_into_a_cluster_that_does_not_run(opened, status):
    opened.alter(CLUSTER, status=status)
    run = opened.run("close", "-y")
    assert run.returncode == 0, run.stderr
    assert "the cluster of europe-west4 does not run" in run.stderr
    assert not [c for c in opened.calls if c[0] == "kubectl" and "europe-west4" in c[1]]


@pytest.mark.parametrize("call", ["kubectl delete gateways", "kubectl delete namespace"])
def test_close_tries_everything_again_that_it_deletes(opened, call):
    opened.fails(call, "in use", times=2)
    run = opened.run("close", "-y")
    assert run.returncode == 0, run.stderr


# Where prompts stay in their region, every cluster has a Gateway of its own.


def test_open_waits_for_the_gateway_class_of_a_region_in_every_cluster(cloud):
    cloud.fleet = FLEET.replace("RESIDENCY=any", "RESIDENCY=region")
    # No load balancer spans the fleet, so nobody waits for its ingress.
    cloud.alter("fleet ingress", code="WARNING")
    run = cloud.run("open")
    assert run.returncode == 0, run.stderr
    assert [call[-1] for call in cloud.calls if "gatewayclass" in call] == ["gke-l7-rilb"] * 2
    assert "in each cluster, with its own region only" in run.stdout


def test_open_names_the_config_cluster_where_it_has_the_gateway(cloud):
    run = cloud.run("open")
    assert "then helm/antipode-gateway in antipode-europe-west4\n" in run.stdout
    (asked,) = [call for call in cloud.calls if "gatewayclass" in call]
    assert "europe-west4" in asked[1]
    assert asked[-1] == "gke-l7-cross-regional-internal-managed-mc"


def test_close_takes_every_regions_gateway_before_any_namespace(apart):
    run = apart.run("close", "-y")
    assert run.returncode == 0, run.stderr
    assert apart.changes == [*EACH_REGIONS_GATEWAY, *CLOSED]


@pytest.mark.parametrize("index", [0, 1])
def test_close_of_one_region_takes_its_own_gateway(apart, index):
    """Also of the config cluster's region: it has nothing that the others need."""
    run = apart.run("close", "-y", REGIONS[index])
    assert run.returncode == 0, run.stderr
    assert apart.changes == [EACH_REGIONS_GATEWAY[index], CLOSED[index]]


def test_another_residency_is_told(cloud):
    cloud.fleet = FLEET.replace("RESIDENCY=any", "RESIDENCY=country")
    run = cloud.run("open")
    assert run.returncode == 2
    assert "RESIDENCY is country in the output fleet" in run.stderr
    assert cloud.changes == []


# Stopping before anything changes.


@pytest.mark.parametrize("mode", ["open", "close"])
@pytest.mark.parametrize(
    "denied",
    [
        "You do not currently have an active account selected.",
        "ResponseError: code=403, message=Required container.clusters.get permission",
    ],
)
def test_what_may_not_be_looked_at_does_not_count_as_absent(cloud, mode, denied):
    cloud.fails("gcloud container", denied)
    run = cloud.run(mode, *(["-y"] if mode == "close" else []))
    assert run.returncode == 1
    assert denied in run.stderr
    assert cloud.changes == []


@pytest.mark.parametrize("tool", ["gcloud", "kubectl", "gke-gcloud-auth-plugin"])
def test_a_tool_that_is_not_installed_is_told(cloud, tool):
    (cloud.folder / tool).unlink()
    run = cloud.run("open")
    assert run.returncode == 1
    assert f"{tool} is not installed" in run.stderr
    assert cloud.changes == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "fleet.sh plan"),
        (("up",), "fleet.sh plan"),
        (("open", "my.env"), "fleet.sh plan"),
        (("close", "europe-west4", "us-east5"), "fleet.sh plan"),
        (("plan", "-f", "/nowhere"), "the settings file /nowhere cannot be read"),
        (("close", "asia-east1"), "asia-east1 is not one of the regions europe-west4 us-east5"),
    ],
)
def test_wrong_use_is_told(cloud, arguments, words):
    run = cloud.run(*arguments)
    assert run.returncode == 2
    assert words in run.stderr
    assert cloud.changes == []


NAMES = re.findall(r"^(\w+)=", FLEET, re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_that_is_missing_or_empty_is_told_first(cloud, tmp_path, name):
    settings = tmp_path / "fleet.env"
    for left in ("", f"{name}=\n"):
        settings.write_text(re.sub(rf"^{name}=.*\n", left, FLEET, flags=re.MULTILINE))
        run = cloud.run("plan", "-f", str(settings))
        assert (run.returncode, run.stdout) == (2, "")
        assert f"{name} is not set in {settings}; run terraform apply first" in run.stderr


def test_terraform_says_every_setting_that_the_script_reads():
    (output,) = (modules(texts())[""].blocks["output"]["fleet"],)
    assert re.findall(r"\b([A-Z_]+)=", str(output["value"])) == NAMES


# The script itself.


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
