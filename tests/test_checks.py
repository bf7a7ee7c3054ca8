"""The checks before a commit and on the public host run what a person runs, from `.venv`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parents[1]
HOOKS = PROJECT / ".pre-commit-config.yaml"
WORKFLOW = PROJECT / ".github/workflows/ci.yml"
MAKEFILE = (PROJECT / "Makefile").read_text()


def test_hooks_are_the_tools_of_make_lint_and_download_nothing():
    [repository] = yaml.safe_load(HOOKS.read_text())["repos"]
    assert repository["repo"] == "local"
    programs = [hook["entry"].split()[0] for hook in repository["hooks"]]
    assert programs == [".venv/bin/ruff", ".venv/bin/ruff", ".venv/bin/mypy"]


def test_the_workflow_runs_what_a_person_runs():
    [job] = yaml.safe_load(WORKFLOW.read_text())["jobs"].values()
    assert job["steps"][-1] == {"run": ".ci/run"}
    assert job["timeout-minutes"] == 45


def test_yaml_files_of_the_checks_lint_strictly():
    command = [sys.executable, "-m", "yamllint", "--strict", str(HOOKS), str(WORKFLOW)]
    run = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert run.stdout == ""


def test_no_recipe_needs_a_python_that_set_up_does_not_bring():
    recipes = [line for line in MAKEFILE.splitlines() if line.startswith("\t")]
    assert [line for line in recipes if "python3.1" in line] == []


@pytest.mark.parametrize(
    ("minutes_gone", "returncode", "says"),
    [
        (0, 1, "--if-built-within 11"),
        (0, 1, "did not finish within 15 minutes"),
        (33, 1, "--if-built-within 5"),
        (38, 0, "passed, but for the clusters: 4 minutes are left of 45"),
    ],
)
def test_the_checks_run_the_lab_in_the_time_that_is_left_and_fail_with_it(
    tmp_path, minutes_gone, returncode, says
):
    """A `make` of the test's own stands for every target, and fails for the lab's."""
    fake = tmp_path / "make"
    fake.write_text('#!/bin/sh\ncase "$*" in *clusters*) echo "$@"; exit 7;; esac\n')
    fake.chmod(0o755)
    # Bash counts on from there.
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SECONDS": str(60 * minutes_gone + 1)}
    run = subprocess.run(
        [PROJECT / ".ci/run"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == returncode
    assert says in run.stdout
    assert ("ci: passed" in run.stdout) == (returncode == 0)
