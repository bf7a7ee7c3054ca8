"""Runs the terraform program offline. It writes into the folder it runs in, so that is a copy."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def terraform(folder: Path, *arguments: str, **environment: str) -> str:
    """What it prints; skips the test where it is not installed."""
    program = shutil.which("terraform")
    if not program:
        pytest.skip("terraform is not installed")
    own = {"PATH": os.environ["PATH"], "HOME": str(folder), "CHECKPOINT_DISABLE": "1"}
    run = subprocess.run(
        [program, *arguments],
        cwd=folder,
        env=own | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout
