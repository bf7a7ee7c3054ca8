"""The image is made of what the lock file and the project say, and lints clean."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
DOCKERFILE = (PROJECT / "Dockerfile").read_text()


def test_hadolint_finds_nothing():
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert hadolint, "hadolint is in the dev group"
    run = subprocess.run(
        [hadolint, str(PROJECT / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout) == (0, "")


def test_the_image_takes_the_uv_that_the_makefile_takes():
    versions = re.findall(r"uv==([\d.]+)", DOCKERFILE + (PROJECT / "Makefile").read_text())
    assert len(versions) == 2
    assert len(set(versions)) == 1


def test_the_image_starts_without_a_shell_and_without_root():
    for instruction in ("ENTRYPOINT", "CMD"):
        (line,) = re.findall(rf"^{instruction} (.*)", DOCKERFILE, re.MULTILINE)
        assert line.startswith("[")
    assert "USER 10001:10001" in DOCKERFILE


@pytest.mark.parametrize("path", re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE))
def test_what_it_copies_is_sent_to_the_builder(path):
    sent = (PROJECT / ".dockerignore").read_text().split()
    for one in path.split():
        assert f"!{one}" in sent
        assert (PROJECT / one).exists() or one == "baked"
