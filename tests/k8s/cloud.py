"""The fleet script run in a project of the fake cloud. Knows no command that the script gives."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]
SCRIPT = PROJECT / "k8s" / "fleet" / "fleet.sh"
REGIONS = ("europe-west4", "us-east5")
# What Terraform says after an apply of its example.
FLEET = """PROJECT=my-project
PREFIX=antipode
REGIONS="europe-west4 us-east5"
CONFIG_REGION=europe-west4
NAMESPACE=antipode
RESIDENCY=any
HOSTS_PER_REPLICA=1
DRANET=true
"""
# Imported, so that no call compiles it again.
FAKE = f"""#!{sys.executable} -IS
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import fake_cloud
sys.exit(fake_cloud.main())
"""


class Cloud:
    """A project in the fake cloud in which Terraform has run, and the script run against it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for tool in ("gcloud", "kubectl", "gke-gcloud-auth-plugin", "terraform"):
            path = folder / tool
            path.write_text(FAKE)
            path.chmod(0o755)
        # All that the script may find: no test reaches the machine's own gcloud.
        for tool in ("bash", "dirname", "grep", "mktemp", "rm", "sed", "sleep"):
            (folder / tool).symlink_to(shutil.which(tool) or f"{tool} is not there")
        self.fleet = FLEET
        clusters = {f"cluster {r} antipode-{r}": {"status": "RUNNING"} for r in REGIONS}
        self.things = {**clusters, "fleet ingress": {"code": "OK"}}

    def run(
        self, *arguments: str, script: Path = SCRIPT, typed: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        (self.folder / "calls").unlink(missing_ok=True)
        variables = {"PATH": str(self.folder), "FAKE_CLOUD": str(self.folder)}
        at_once = {"GATEWAY_SECONDS": "0", "RETRY_SECONDS": "0", "WAIT_SECONDS": "0"}
        return subprocess.run(
            ["bash", str(script), *arguments],
            capture_output=True,
            text=True,
            check=False,
            input=typed,
            env=variables | at_once | environment,
        )

    def fails(self, call: str, saying: str, times: int = 1000) -> None:
        """Lets the next calls that begin so fail."""
        failure = {"call": call, "saying": saying, "times": times}
        (self.folder / "failures").write_text(json.dumps([failure]))

    def alter(self, thing: str, **about: str) -> None:
        self.things = {**self.things, thing: {**self.things.get(thing, {}), **about}}

    @property
    def fleet(self) -> str:
        """What Terraform says that the script reads."""
        return (self.folder / "fleet").read_text()

    @fleet.setter
    def fleet(self, text: str) -> None:
        (self.folder / "fleet").write_text(text)

    @property
    def calls(self) -> list[list[str]]:
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    @property
    def changes(self) -> list[str]:
        """The calls that change something: the cluster's region, and the words without flags."""
        found = []
        for call in self.calls:
            words = [word for word in call if not word.startswith("--")]
            if words[0] == "kubectl" and words[1] in ("create", "delete", "apply"):
                region = next(r for r in REGIONS if r in call[1])
                found.append(" ".join([region, *words[1:]]))
        return found

    @property
    def things(self) -> dict[str, dict[str, str]]:
        return json.loads((self.folder / "state").read_text())

    @things.setter
    def things(self, things: dict[str, dict[str, str]]) -> None:
        (self.folder / "state").write_text(json.dumps(things, sort_keys=True))


def printed(run: subprocess.CompletedProcess[str]) -> list[str]:
    """The commands that the script printed, each with its `+`."""
    return [line for line in run.stdout.splitlines() if line.startswith("+ ")]
