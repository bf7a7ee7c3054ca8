"""The chart and the program against each other: the pod's server, started here.

Its command, variables, ports and probes are read out of what Helm installs into a stand-in for a
cluster; a folder stands in for each mount, and the test for the kubelet. On CPU, with the embedded
model.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from helm_python import HelmError

from tests.e2e.servers import REAL, RunningServer, first_free_port, wait_for
from tests.helm.charts import PROJECT, case_values, find, merged, render
from tests.helm.fake_cluster import FakeCluster
from tests.helm.installing import RELEASE, helm, install, set_version

SMALL = {
    "model.bucket": "",
    "model.name": "tiny",
    "model.path": str(PROJECT / "models" / "tiny"),
    "model.version": "1",
    "server.maxNumSeqs": 4,
    "server.lameDuckSeconds": 1,
    "server.extra": {"max_num_batched_tokens": "32", "num_blocks": "256"},
}
ONE_HOST = merged(case_values("antipode", "cpu"), SMALL)
FEWER_PROGRAMS = {
    "server.maxNumSeqs": 2,
    "server.extra": {"max_num_batched_tokens": "8", "num_blocks": "256"},
}
FOUR_HOSTS = merged(case_values("antipode", "v6e-4x4"), SMALL | FEWER_PROGRAMS)
# What a chart for TPUs claims that this machine does not have.
CLAIMS = ("ANTIPODE_SLICE_", "ANTIPODE_CLAIM_", "ANTIPODE_INTERFACE_")


def mount(folder: Path, config_map: dict) -> None:
    """Put a ConfigMap's files into a folder as the kubelet does: `..data` names the newest set."""
    newest = folder / f"..{time.time_ns()}"
    newest.mkdir(parents=True)
    for name, content in config_map["data"].items():
        (newest / name).write_text(content)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path("..data") / name)
    (folder / "..new").symlink_to(newest.name)
    os.replace(folder / "..new", folder / "..data")


class Pod:
    """A rendered pod, run here."""

    def __init__(self, folder: Path, spec: dict, config_map: dict) -> None:
        self.folder, self.spec = folder, spec
        (self.container,) = self.spec["containers"]
        self.update(config_map)

    def update(self, config_map: dict) -> None:
        mount(self.folder / "etc" / "antipode", config_map)

    def start(self, **others: str) -> RunningServer:
        """`others` are variables that the pod's controller sets."""
        variables = {
            v["name"]: self._here(v["name"], v["value"])
            for v in self.container["env"]
            if not v["name"].startswith(CLAIMS)
        }
        assert self.container["args"] == ["serve"]
        return RunningServer(self.folder / "log", REAL, JAX_PLATFORMS="cpu", **variables | others)

    def _here(self, name: str, value: str) -> str:
        """A path under one of the pod's mounts, in this folder."""
        mounts = [m["mountPath"] for m in self.container["volumeMounts"]]
        inside = any(value.startswith(path + "/") for path in mounts)
        return str(self.folder / value.lstrip("/")) if inside and name != "PATH" else value

    def probe(self, server: RunningServer, name: str) -> int:
        get = self.container[name]["httpGet"]
        assert {"name": get["port"], "containerPort": 8000} in self.container["ports"]
        try:
            return server.get(get["path"]).status_code
        except httpx.TransportError:
            return 0


class FakeKubelet:
    """Does what a kubelet would: brings a changed ConfigMap into the pod, and runs a test's pod.

    The Service that the test's pod asks is `server` itself.
    """

    def __init__(self) -> None:
        self.pod: Pod | None = None
        self.server: RunningServer | None = None
        self.printed = ""

    def __call__(self, thing: dict[str, Any]) -> None:
        if thing["kind"] == "ConfigMap" and thing["metadata"]["name"] == "prod-model" and self.pod:
            self.pod.update(thing)
        if thing["kind"] == "Pod":
            thing["status"] = {"phase": "Succeeded" if self._run(thing) else "Failed"}

    def _run(self, thing: dict[str, Any]) -> bool:
        (container,) = thing["spec"]["containers"]
        _, flag, program = container["command"]
        assert self.server
        assert "http://prod:8000" in program
        here = program.replace("http://prod:8000", self.server.http)
        ran = subprocess.run(
            [sys.executable, flag, here], capture_output=True, text=True, check=False
        )
        self.printed = ran.stdout
        return ran.returncode == 0


def config_map(values: dict[str, Any]) -> dict[str, Any]:
    return find(render("antipode", values), "ConfigMap", "prod-model")


@pytest.fixture
def group(tmp_path):
    """The pods of a LeaderWorkerSet's group, the leader first."""
    group = find(render("antipode", FOUR_HOSTS), "LeaderWorkerSet", "prod")["spec"]
    template = group["leaderWorkerTemplate"]
    specs = [template["leaderTemplate"]["spec"]]
    specs += [template["workerTemplate"]["spec"]] * (template["size"] - 1)
    pods = [Pod(tmp_path / str(i), spec, config_map(FOUR_HOSTS)) for i, spec in enumerate(specs)]
    token = tmp_path / "0" / "etc" / "antipode-admin" / "token"
    token.parent.mkdir()
    token.write_text("secret")
    for pod in pods:
        secret = pod.folder / "etc" / "antipode-group" / "secret"
        secret.parent.mkdir()
        secret.write_text("the secret of this group")
    return pods


def complete(server):
    body = {"model": "tiny", "prompt": "import os", "max_tokens": 4, "temperature": 0}
    return server.post("/v1/completions", body)


def test_what_helm_installs_starts_answers_swaps_and_drains_in_time(tmp_path):
    kubelet = FakeKubelet()
    cluster = FakeCluster(on_change=kubelet)
    with helm(cluster) as config:
        install(config, ONE_HOST)
        spec = cluster.find("Deployment", RELEASE)["spec"]["template"]["spec"]
        pod = kubelet.pod = Pod(tmp_path, spec, cluster.find("ConfigMap", "prod-model"))
        server = kubelet.server = pod.start()
        try:
            wait_for(lambda: pod.probe(server, "livenessProbe") == 200, "being alive")
            server.wait_ready()
            assert pod.probe(server, "startupProbe") == 200
            assert pod.probe(server, "readinessProbe") == 200
            config.test(RELEASE, timeout=60)
            assert kubelet.printed.strip()

            set_version(config, "2")
            wait_for(lambda: complete(server).json()["model_version"] == "2", "the swap", 60)
            assert server.metric("antipode_compilations_after_ready_total") == 0
            config.test(RELEASE, timeout=60)

            config.rollback(RELEASE)
            wait_for(lambda: complete(server).json()["model_version"] == "1", "the way back", 60)

            server.terminate()
            wait_for(lambda: pod.probe(server, "readinessProbe") != 200, "not being ready")
            assert server.wait_exit(pod.spec["terminationGracePeriodSeconds"]) == 0
            with pytest.raises(HelmError):
                config.test(RELEASE, timeout=60)
        finally:
            server.process.kill()
            server.process.wait()


def test_the_config_map_is_what_the_server_reads():
    assert yaml.safe_load(config_map(ONE_HOST)["data"]["model.yaml"]) == {
        "name": "tiny",
        "path": str(PROJECT / "models" / "tiny"),
        "version": "1",
        "swap_policy": "availability",
    }


def test_the_pods_of_a_group_serve_and_change_versions_together(group):
    """The four hosts of a v6e 4x4, each with one CPU device in place of its chips."""
    port = str(first_free_port(2))
    servers = [
        pod.start(
            LWS_LEADER_ADDRESS="localhost",
            LWS_GROUP_SIZE=str(len(group)),
            LWS_WORKER_INDEX=str(index),
            ANTIPODE_GROUP_PORT=port,
        )
        for index, pod in enumerate(group)
    ]
    leader = servers[0]
    try:
        leader.wait_ready()
        assert group[0].probe(leader, "readinessProbe") == 200
        assert not any("Probe" in key for pod in group[1:] for key in pod.container)
        assert complete(leader).json()["model_version"] == "1"

        for pod in group:
            pod.update(config_map(merged(FOUR_HOSTS, {"model.version": "2"})))
        wait_for(lambda: complete(leader).json()["model_version"] == "2", "the swap", 60)

        for server in servers:
            server.terminate()
        grace = group[0].spec["terminationGracePeriodSeconds"]
        assert [server.wait_exit(grace) for server in servers] == [0] * len(group)
    finally:
        for server in servers:
            server.process.kill()
            server.process.wait()
            print(server.log_path.read_text())
