"""The fleet script against a stand-in that remembers: what is made, once, in order, and goes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
SCRIPT = PROJECT / "k8s" / "fleet" / "fleet.sh"
FAKE = Path(__file__).with_name("fake_cloud.py")


class Cloud:
    """A project in the fake cloud, and the script run against it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for tool in ("gcloud", "kubectl"):
            path = folder / tool
            path.write_text(f"#!{sys.executable} -IS\n" + FAKE.read_text().split("\n", 1)[1])
            path.chmod(0o755)

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        (self.folder / "calls").unlink(missing_ok=True)
        path = f"{self.folder}:{os.environ['PATH']}"
        variables = {"PATH": path, "FAKE_CLOUD": str(self.folder), "GATEWAY_SECONDS": "0"}
        return subprocess.run(
            ["bash", str(SCRIPT), *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=variables | environment,
        )

    @property
    def calls(self) -> list[list[str]]:
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    @property
    def changes(self) -> list[str]:
        """The calls that change something, without their flags."""
        verbs = ("create", "delete", "enable", "disable", "add-iam-policy-binding", "apply")
        calls = [" ".join(w for w in call if not w.startswith("--")) for call in self.calls]
        return [call for call in calls if any(f" {verb}" in call for verb in verbs)]

    @property
    def things(self) -> list[str]:
        return json.loads((self.folder / "state").read_text())


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)


@pytest.fixture(scope="module")
def state_after_up(tmp_path_factory):
    cloud = Cloud(tmp_path_factory.mktemp("cloud"))
    up = cloud.run("up")
    assert up.returncode == 0, up.stderr
    return (cloud.folder / "state").read_text()


@pytest.fixture
def built(cloud, state_after_up):
    """A cloud in which `up` has run."""
    (cloud.folder / "state").write_text(state_after_up)
    return cloud


def settings_with(folder, *replaced):
    """The path of settings in which each odd one has the next in its place."""
    text = (SCRIPT.parent / "settings.env").read_text()
    for before, after in zip(replaced[::2], replaced[1::2], strict=True):
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    (folder / "settings.env").write_text(text)
    return str(folder / "settings.env")


def pools(calls):
    return [call for call in calls if "node-pools" in call and "create" in call]


def printed(run):
    return [line for line in run.stdout.splitlines() if line.startswith("+ ")]


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
    kept = {t for t in things if t.startswith(("compute networks", "container"))}
    (built.folder / "state").write_text(json.dumps(sorted(kept)))
    rest = built.run("up")
    assert rest.returncode == 0, rest.stderr
    assert built.things == things
    assert not [call for call in built.changes if "container clusters create" in call]


def test_down_leaves_the_buckets_the_apis_and_the_roles(built):
    down = built.run("down")
    assert down.returncode == 0, down.stderr
    assert {t.split()[0] for t in built.things} == {"services", "iam", "storage"}
    assert "the buckets gs://my-project-models-*" in down.stdout


def test_down_takes_the_features_before_the_clusters_and_rules_before_the_network(built):
    state = built.folder / "state"
    ghost = "compute firewall-rules  mcsd-left-behind"
    state.write_text(json.dumps([*built.things, ghost]))
    assert built.run("down").returncode == 0
    order = [
        "gcloud container fleet ingress disable",
        "gcloud container clusters delete antipode-europe-west4",
        "gcloud compute firewall-rules delete mcsd-left-behind",
        "gcloud compute networks delete antipode",
    ]
    positions = [built.changes.index(call) for call in order]
    assert positions == sorted(positions)


def test_a_second_down_changes_nothing(built):
    built.run("down")
    again = built.run("down")
    assert again.returncode == 0, again.stderr
    assert built.changes == []


def test_too_little_quota_stops_before_anything_is_made(cloud):
    run = cloud.run("up", FAKE_QUOTA="2.0")
    assert run.returncode == 1
    assert "europe-west4 allows 2 TPU chips and 4 are wanted" in run.stderr
    assert not [call for call in cloud.changes if "services" not in call]


def test_a_reservation_is_not_asked_for_quota(cloud, tmp_path):
    settings = settings_with(tmp_path, "\nCAPACITY=", '\nCAPACITY="--spot --enable-autoscaling"')
    run = cloud.run("up", "-f", settings, FAKE_QUOTA="2.0")
    assert run.returncode == 0, run.stderr
    assert {"--spot", "--enable-autoscaling"} < set(pools(cloud.calls)[0])


FOUR_HOSTS = ("HOSTS_PER_REPLICA=1\nREPLICAS=1", "HOSTS_PER_REPLICA=4\nREPLICAS=2")


def test_a_slice_of_several_hosts_is_a_pool_of_its_own(cloud, tmp_path):
    manifest = ("MANIFEST=\n", "MANIFEST=lws.yaml\n")
    settings = settings_with(tmp_path, *FOUR_HOSTS, *manifest)
    run = cloud.run("up", "-f", settings)
    assert run.returncode == 0, run.stderr
    made = [(c[c.index("create") + 1], "--num-nodes=4" in c) for c in pools(cloud.calls)]
    assert made == [("tpu-0", True), ("tpu-1", True)] * 2
    assert cloud.run("up", "-f", settings).returncode == 0
    assert cloud.changes == []


def test_a_slice_of_several_hosts_needs_what_gke_does_not_bring(cloud, tmp_path):
    run = cloud.run("up", "-f", settings_with(tmp_path, *FOUR_HOSTS))
    assert run.returncode == 2
    assert "a slice of 4 hosts is a LeaderWorkerSet" in run.stderr
    assert cloud.calls == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "fleet.sh plan"),
        (("sideways",), 2, "fleet.sh plan"),
        (("plan", "-f", "/nowhere"), 2, "the settings file /nowhere cannot be read"),
    ],
)
def test_wrong_use_is_told(cloud, arguments, code, words):
    run = cloud.run(*arguments)
    assert run.returncode == code
    assert words in run.stderr


def test_a_region_without_its_settings_is_told(cloud, tmp_path):
    settings = settings_with(tmp_path, "PROXIES_us_east5", "PROXIES_us_east7")
    run = cloud.run("up", "-f", settings)
    assert run.returncode != 0
    assert "PROXIES_us_east5 is not set" in run.stderr
    assert not [call for call in cloud.changes if "firewall" in call]


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
