"""The kubelet runs real containers: a stand-in is only the API server.

In a process of its own, because namespaces are for good. Skipped where the kernel allows none.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.helm.charts import PROJECT

STORIES = (
    "a_pod_runs_is_ready_and_ends_by_sigterm",
    "a_changed_config_map_reaches_a_running_pod",
    "a_new_name_reaches_a_running_pod",
    "a_pod_without_volumes_starts_again_when_it_fails",
    "a_pod_whose_object_is_gone_is_killed",
    "a_failing_liveness_probe_starts_the_container_again",
    "an_unknown_image_waits_with_its_reason",
    "a_container_sees_its_own_addresses_processes_and_files",
)


@pytest.fixture(scope="module")
def namespaces():
    ran = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", "--mount", "ip", "link"],
        capture_output=True,
        check=False,
    )
    if ran.returncode:
        pytest.skip("this machine allows no namespaces")


@pytest.mark.parametrize("story", STORIES)
def test_with_real_processes(namespaces, story, tmp_path):
    command = [sys.executable, "-m", "tests.k8s.clusters.kubelet.run_pods", story, str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=False)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-4000:]
