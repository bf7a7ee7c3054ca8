"""The image is made of what the lock file and the project say, and lints clean."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
DOCKERFILE = (PROJECT / "Dockerfile").read_text()
MAKEFILE = (PROJECT / "Makefile").read_text()


def test_hadolint_finds_nothing():
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert hadolint, "hadolint is in the dev group"
    run = subprocess.run(
        [hadolint, str(PROJECT / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout) == (0, "")


def test_the_image_takes_the_uv_that_the_makefile_takes():
    versions = re.findall(r"uv==([\d.]+)", DOCKERFILE + MAKEFILE)
    assert len(versions) == 2
    assert len(set(versions)) == 1


def test_the_image_starts_without_a_shell_and_without_root():
    for instruction in ("ENTRYPOINT", "CMD"):
        (line,) = re.findall(rf"^{instruction} (.*)", DOCKERFILE, re.MULTILINE)
        assert line.startswith("[")
    assert "USER 10001:10001" in DOCKERFILE


def test_the_default_command_serves_a_model_that_the_image_carries():
    """As argparse and the server read it; what is started is in e2e/test_image_command.py."""
    flags = default_command()[1:]
    model = flags[flags.index("--model") + 1]
    assert (PROJECT / "models" / model / "1" / "model.safetensors").is_file()
    assert default_command()[0] == "serve"


@pytest.mark.parametrize(("target", "arguments"), [("cpu", ""), ("tpu", "--extra tpu")])
def test_the_sbom_is_of_what_the_image_installs(target, arguments):
    (sbom,) = re.findall(r"^\t\$\(UV\) export (.*)$", MAKEFILE, re.MULTILINE)
    stage = DOCKERFILE.split(f"AS build-{target}\n")[1].split("\nFROM ")[0]
    synced = re.findall(r"uv sync (.*)$", stage, re.MULTILINE)
    assert synced
    wanted = selection(sbom.replace("$(ARGS)", arguments))
    assert [selection(one) for one in synced] == [wanted] * len(synced)


def test_a_selection_is_told_from_another():
    assert selection("--frozen --extra tpu") != selection("--frozen")
    assert selection("--no-default-groups") != selection("--all-groups")
    assert selection("--extra gcs --no-dev") != selection("--extra tpu --no-dev")


def selection(command):
    """What a uv command takes from the lock file: its extras and groups, and whether it is held."""
    named = r"--(?:extra|group|only-group|no-group|package)[ =]\S+"
    return sorted(re.findall(rf"{named}|--(?:frozen|locked|all-\S+|no-d\S+)", command))


def default_command():
    (line,) = re.findall(r"^CMD (\[.*)$", DOCKERFILE, re.MULTILINE)
    return json.loads(line)


@pytest.mark.parametrize("path", re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE))
def test_what_it_copies_is_sent_to_the_builder(path):
    sent = (PROJECT / ".dockerignore").read_text().split()
    for one in path.split():
        assert f"!{one}" in sent
        assert (PROJECT / one).exists() or one == "baked"
