"""Every command that the fleet script gives for its default settings, held word for word.

After a wanted change: `pytest tests/k8s/test_fleet_commands.py --update-golden`, and read the diff.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.k8s.cloud import SCRIPT, Cloud, printed

GOLDEN = Path(__file__).with_name("golden")
NUMBER = "123456"
# What each would break on a cluster; a run against the fake cloud still succeeds with all of them.
HARMFUL = {
    "an MTU below jumbo frames": ("--mtu=8896", "--mtu=1460"),
    "a proxy-only subnet for one region's proxies": (
        "--purpose=GLOBAL_MANAGED_PROXY",
        "--purpose=REGIONAL_MANAGED_PROXY",
    ),
    "a node pool without DRANET's network profile": ("--accelerator-network-profile=auto", ""),
    "nodes without DRANET's driver": ("gke-networking-dra-driver=true", "other=true"),
    "a firewall without the pickers' ports": (
        "tcp:8000,tcp:9000,tcp:9002,tcp:9003",
        "tcp:8000,tcp:9000",
    ),
    "a firewall without the health checks' port": (
        "--allow=tcp:8000,tcp:9000,tcp:9003 ",
        "--allow=tcp:9000 ",
    ),
    "clusters without Dataplane V2": (" --enable-dataplane-v2", ""),
    "clusters outside the fleet": (' \\\n      --fleet-project="${PROJECT}"\n', "\n"),
    "clusters without the Gateway API": ("--gateway-api=standard", "--gateway-api=disabled"),
}


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)


def commands(run):
    """The printed commands; each flag is a line of its own, so that a diff shows what changed."""
    assert run.returncode == 0, run.stderr
    lines = []
    for line in printed(run):
        words = shlex.split(line.replace("PROJECT_NUMBER", NUMBER))[1:]
        lines.append(" ".join(word for word in words if not word.startswith("--")))
        lines += [f"    {word}" for word in words if word.startswith("--")]
    return "\n".join(lines) + "\n"


def test_up_and_down_give_these_commands(cloud, request):
    given = {mode: commands(cloud.run(mode)) for mode in ("up", "down")}
    for mode, text in given.items():
        path = GOLDEN / f"{mode}.txt"
        if request.config.getoption("update_golden"):
            path.write_text(text)
        assert text == path.read_text()


@pytest.mark.parametrize("change", HARMFUL)
def test_a_harmful_change_is_seen(cloud, change):
    before, after = HARMFUL[change]
    assert before in SCRIPT.read_text()
    assert planned(cloud, before, after) != (GOLDEN / "up.txt").read_text()


def test_an_unchanged_copy_gives_the_same_commands(cloud):
    assert planned(cloud, "", "") == (GOLDEN / "up.txt").read_text()


def planned(cloud, before, after):
    """What a changed copy of the script would run."""
    changed = cloud.folder / "fleet.sh"
    changed.write_text(SCRIPT.read_text().replace(before, after))
    settings = str(SCRIPT.with_name("settings.env"))
    return commands(cloud.run("plan", "-f", settings, script=changed))
