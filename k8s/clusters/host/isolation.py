"""A network and mounts of the lab's own, in which everything runs that the lab starts.

The API server refuses addresses of 127.0.0.0/8 in EndpointSlices, so pods have others. They exist
only in this network, which has no way out. Needs root, or a kernel that lets users make namespaces.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from k8s.clusters.host.unavailable import UnavailableError

BRIDGE = "pods"
_INSIDE = "ANTIPODE_CLUSTERS_INSIDE"
# gRPC's own handlers of fork sometimes abort the child before it becomes another program.
_WITHOUT_FORK_HANDLERS = {"GRPC_ENABLE_FORK_SUPPORT": "0"}
_OWN = ("--net", "--mount")
_AS_USER = ("--user", "--map-root-user", *_OWN)
# One of everything that the kernel must let the lab make: a bridge, a pod's link, a file tree.
_ATTEMPT = " && ".join(
    (
        f"ip link add {BRIDGE} type bridge",
        "ip link add v0 type veth peer name v1",
        "unshare --mount --pid --fork mount -t proc proc /proc",
    )
)


def check() -> None:
    """UnavailableError where this machine gives the lab no network and no mounts of its own."""
    if _INSIDE not in os.environ:
        _possible_flags()


def go_inside(module: str, arguments: Sequence[str]) -> None:
    """Go on in namespaces of its own: this process becomes `python -m module`, which calls this
    function again. UnavailableError as from `check`.
    """
    if _INSIDE in os.environ:
        return
    command = ["unshare", *_possible_flags()]
    os.environ |= {_INSIDE: "1", **_WITHOUT_FORK_HANDLERS}
    os.execvp("unshare", [*command, sys.executable, "-m", module, *arguments])


def _possible_flags() -> tuple[str, ...]:
    """The flags of unshare under which this user may make what the lab makes."""
    for program in ("unshare", "nsenter", "ip", "mount"):
        if shutil.which(program) is None:
            raise UnavailableError(f"the lab needs {program} on the PATH; see docs/clusters.md")
    for flags in (_OWN, _AS_USER):
        tried = ["unshare", *flags, "sh", "-c", _ATTEMPT]
        ran = subprocess.run(tried, capture_output=True, text=True, check=False)
        if not ran.returncode:
            return flags
    raise UnavailableError(
        "this user may make no namespaces, networks and mounts; run as root, or allow user "
        f"namespaces ({ran.stderr.strip()})"
    )


def make_network(gateways: Sequence[str]) -> None:
    """The network of the lab: `gateways` are the addresses of the bridge that pods are on, one
    per region, such as 10.1.0.1.
    """
    _ip("link", "set", "lo", "up")
    _ip("link", "add", BRIDGE, "type", "bridge")
    for gateway in gateways:
        _ip("addr", "add", f"{gateway}/16", "dev", BRIDGE)
    _ip("link", "set", BRIDGE, "up")
    # Pods of one region reach those of another, as in one network of Google Cloud.
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def connect(pid: int, address: str, gateway: str, name: str) -> None:
    """Give the network namespace of a process an interface with this address, on the bridge."""
    _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
    _ip("link", "set", name, "master", BRIDGE, "up")
    inside = (
        ("link", "set", "lo", "up"),
        ("addr", "add", f"{address}/16", "dev", "eth0"),
        ("link", "set", "eth0", "up"),
        ("route", "add", "default", "via", gateway),
    )
    for arguments in inside:
        _run("nsenter", "--net", f"--target={pid}", "ip", *arguments)


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> None:
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(f"{' '.join(command)}: {ran.stderr.strip()}")
