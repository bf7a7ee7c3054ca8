"""Both charts, in each of their cases, before the API server of each version of Kubernetes.

Skipped where `make clusters` has not built the programs yet: tests build none.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from k8s.clusters.control_plane import programs
from tests.helm.charts import PROJECT


@pytest.mark.parametrize("minor", programs.MINORS)
def test_the_api_server_admits_what_the_charts_render(minor, tmp_path):
    if not programs.built(minor):
        pytest.skip(f"Kubernetes {minor} is not built: make clusters ARGS='--kubernetes {minor}'")
    command = [sys.executable, "-m", "k8s.clusters", "--admission", f"--kubernetes={minor}"]
    ran = subprocess.run(
        [*command, f"--output={tmp_path / 'clusters'}"],
        capture_output=True,
        text=True,
        cwd=PROJECT,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-4000:]
