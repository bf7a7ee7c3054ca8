"""Stories of pods on one node, each told in namespaces of its own: `run_pods STORY FOLDER`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from k8s.clusters.host import isolation
from k8s.clusters.kubelet.agent import Kubelet
from k8s.clusters.kubelet.images import Image
from k8s.clusters.kubelet.node import Addresses, Contents, Node
from tests.k8s.clusters.kubelet.fake_api import FakeApi

PODS = "/api/v1/namespaces/n/pods"
MAPS = "/api/v1/namespaces/n/configmaps"
# A Service has the name of the pod.
NAMES = {"service": "10.1.1.9", "p": "10.1.1.9"}
WAIT_SECONDS = 60
SERVE = """
import http.server, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("serving", flush=True)
class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        self.send_response(500 if self.path == "/bad" else 200)
        self.end_headers()
http.server.HTTPServer(("0.0.0.0", 8000), Handler).serve_forever()
"""
LOOK = """
import os, socket
print(os.getpid(), os.environ["ADDRESS"], socket.gethostbyname("service"))
print(socket.gethostname(), socket.gethostbyname(socket.gethostname()))
print([name for name in os.listdir("/etc/app") if name[0] != "."], open("/etc/app/a").read())
open("/scratch/x", "w").close()
open("/dev/shm/x", "x").close()
try:
    open("/etc/app/b", "w")
except OSError as error:
    print(error.strerror)
try:
    open("/new", "w")
except OSError as error:
    print(error.strerror)
"""


def pod(program, policy="Always", **container):
    base = {"name": "c", "image": "program", "command": [sys.executable, "-c", program]}
    return {
        "metadata": {"name": "p", "namespace": "n", "uid": "12345678-u"},
        "spec": {
            "nodeName": "node",
            "restartPolicy": policy,
            "containers": [base | container],
            "volumes": [
                {"name": "config", "configMap": {"name": "m"}},
                {"name": "scratch", "emptyDir": {}},
            ],
        },
    }


def config_map(**data):
    return {"metadata": {"name": "m", "namespace": "n"}, "data": data}


MOUNTS = [
    {"name": "config", "mountPath": "/etc/app", "readOnly": True},
    {"name": "scratch", "mountPath": "/scratch"},
]


class Story:
    """A kubelet with its stand-in for an API server."""

    def __init__(self, folder):
        self.api = FakeApi()
        self.folder = folder
        self.api.put(MAPS, config_map(a="1"))
        self.names = dict(NAMES)
        addresses = iter(range(99))
        node = Node(
            name="node",
            api=self.api,
            address="10.1.1.1",
            gateway="10.1.0.1",
            addresses=Addresses("10.1.1"),
            folder=folder / "pods",
            buckets=folder / "buckets",
            images={"program": Image(entrypoint=())},
            service_host="10.1.0.1",
            names=lambda _: self.names,
            interfaces=lambda: f"v{next(addresses)}",
            contents=Contents(self.api),
        )
        self.kubelet = Kubelet(node, {"metadata": {"name": "node"}, "status": {}})

    @property
    def status(self):
        return self.api.objects[f"{PODS}/p"].get("status", {})

    @property
    def container(self):
        return self.status.get("containerStatuses", [{}])[0]

    @property
    def conditions(self):
        return {one["type"]: one["status"] for one in self.status.get("conditions", ())}

    def log(self):
        return next((self.folder / "pods").rglob("c.log")).read_text()

    async def run(self, made):
        await self.kubelet.start()
        self.api.put(PODS, made)

    async def until(self, holds):
        async with asyncio.timeout(WAIT_SECONDS):
            while not holds():
                await asyncio.sleep(0.02)

    async def until_running(self):
        await self.until(lambda: "running" in self.container.get("state", {}))


async def a_pod_runs_is_ready_and_ends_by_sigterm(story):
    probe = {"httpGet": {"path": "/", "port": 8000}, "periodSeconds": 1, "timeoutSeconds": 20}
    await story.run(pod(SERVE, startupProbe=probe | {"failureThreshold": 60}, readinessProbe=probe))
    await story.until(lambda: story.conditions.get("Ready") == "True")
    assert story.status["podIP"] == "10.1.1.2"
    assert story.status["phase"] == "Running"
    assert story.container["started"]
    seen = story.api.objects[f"{PODS}/p"]
    story.api.end(f"{PODS}/p", 30)
    await story.until(lambda: f"{PODS}/p" not in story.api.objects)
    assert seen["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 0
    assert seen["status"]["phase"] == "Succeeded"


async def a_changed_config_map_reaches_a_running_pod(story):
    program = (
        "import time\nwhile open('/etc/app/a').read() != '2': time.sleep(0.01)\nprint('changed')"
    )
    await story.run(pod(program, "Never", volumeMounts=MOUNTS))
    await story.until_running()
    story.api.put(MAPS, config_map(a="2"), "MODIFIED")
    await story.until(lambda: story.status["phase"] == "Succeeded")
    assert "changed" in story.log()


async def a_new_name_reaches_a_running_pod(story):
    program = (
        "import socket, time\n"
        "def there():\n"
        "    try: return socket.gethostbyname('late')\n"
        "    except OSError: return ''\n"
        "while there() != '10.1.1.8': time.sleep(0.01)\n"
        "print('found')"
    )
    await story.run(pod(program, "Never"))
    await story.until_running()
    story.names["late"] = "10.1.1.8"
    await story.until(lambda: story.status["phase"] == "Succeeded")
    assert "found" in story.log()


async def a_pod_without_volumes_starts_again_when_it_fails(story):
    made = pod("raise SystemExit(3)")
    del made["spec"]["volumes"]
    await story.run(made)
    await story.until(
        lambda: (
            story.container.get("state", {}).get("waiting", {}).get("reason") == "CrashLoopBackOff"
        )
    )
    assert story.container["restartCount"] == 1
    assert story.container["lastState"]["terminated"]["exitCode"] == 3


async def a_pod_whose_object_is_gone_is_killed(story):
    await story.run(pod("import time; print('here', flush=True); time.sleep(600)"))
    await story.until_running()
    [worker] = story.kubelet.workers.values()
    [pid] = worker.pids
    story.api.remove(f"{PODS}/p")
    await story.until(lambda: not Path(f"/proc/{pid}").exists())


async def a_failing_liveness_probe_starts_the_container_again(story):
    probe = {"httpGet": {"path": "/bad", "port": 8000}, "periodSeconds": 1, "failureThreshold": 1}
    await story.run(pod(SERVE, livenessProbe=probe | {"initialDelaySeconds": 1}))
    await story.until(lambda: story.container.get("restartCount", 0) == 1)
    assert "the liveness probe failed" in story.log()


async def an_unknown_image_waits_with_its_reason(story):
    await story.run(pod("", image="elsewhere/nginx:1"))
    await story.until(
        lambda: story.container.get("state", {}).get("waiting", {}).get("reason") == "ErrImagePull"
    )
    assert story.status["phase"] == "Pending"


async def a_container_sees_its_own_addresses_processes_and_files(story):
    address = {"name": "ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    made = pod(
        LOOK,
        "Never",
        env=[address],
        volumeMounts=MOUNTS,
        securityContext={"readOnlyRootFilesystem": True},
    )
    await story.run(made)
    await story.until(lambda: story.status.get("phase") == "Succeeded")
    read_only = "Read-only file system"
    seen = ["1 10.1.1.2 10.1.1.9", "p 10.1.1.2", "['a'] 1", read_only, read_only]
    assert story.log().splitlines() == seen


async def tell(name, folder):
    story = Story(folder)
    try:
        await globals()[name](story)
    finally:
        await story.kubelet.vanish()


if __name__ == "__main__":
    isolation.go_inside("tests.k8s.clusters.kubelet.run_pods", sys.argv[1:])
    isolation.make_network(["10.1.0.1"])
    asyncio.run(tell(sys.argv[1], Path(sys.argv[2])))
