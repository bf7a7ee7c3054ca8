"""The fleet script run in a project of the fake cloud. Knows no command that the script gives."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]
SCRIPT = PROJECT / "k8s" / "fleet" / "fleet.sh"
# Imported, so that no call compiles it again.
FAKE = f"""#!{sys.executable} -IS
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import fake_cloud
sys.exit(fake_cloud.main())
"""


class Cloud:
    """A project in the fake cloud, and the script run against it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for tool in ("gcloud", "kubectl", "gke-gcloud-auth-plugin"):
            path = folder / tool
            path.write_text(FAKE)
            path.chmod(0o755)
        # All that the script may find: no test reaches the machine's own gcloud.
        for tool in ("bash", "dirname", "grep", "mktemp", "rm", "sed", "sleep"):
            (folder / tool).symlink_to(shutil.which(tool) or f"{tool} is not there")

    def run(
        self, *arguments: str, script: Path = SCRIPT, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        (self.folder / "calls").unlink(missing_ok=True)
        variables = {"PATH": str(self.folder), "FAKE_CLOUD": str(self.folder)}
        at_once = {"GATEWAY_SECONDS": "0", "RETRY_SECONDS": "0", "WAIT_SECONDS": "0"}
        return subprocess.run(
            ["bash", str(script), *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=variables | at_once | environment,
        )

    def fails(self, call: str, saying: str, times: int = 1000) -> None:
        """Lets the next calls that begin so fail."""
        failure = {"call": call, "saying": saying, "times": times}
        (self.folder / "failures").write_text(json.dumps([failure]))

    def alter(self, thing: str, **about: str) -> None:
        self.things = {**self.things, thing: {**self.things.get(thing, {}), **about}}

    @property
    def calls(self) -> list[list[str]]:
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    @property
    def changes(self) -> list[str]:
        """The calls that change something, without their flags."""
        verbs = ("create", "delete", "enable", "disable", "add-iam-policy-binding", "apply")
        calls = [" ".join(w for w in c if not w.startswith("--")) for c in self.calls if asks(c)]
        return [call for call in calls if any(f" {verb}" in call for verb in verbs)]

    @property
    def things(self) -> dict[str, dict[str, str]]:
        return json.loads((self.folder / "state").read_text())

    @things.setter
    def things(self, things: dict[str, dict[str, str]]) -> None:
        (self.folder / "state").write_text(json.dumps(things, sort_keys=True))


def asks(call):
    return "--help" not in call


def printed(run: subprocess.CompletedProcess[str]) -> list[str]:
    """The commands that the script printed, each with its `+`."""
    return [line for line in run.stdout.splitlines() if line.startswith("+ ")]
