"""A network and mounts of the lab's own, in which everything runs that the lab starts.

The API server refuses addresses of 127.0.0.0/8 in EndpointSlices, so pods have others. They exist
only in this network, which has no way out. Needs root, or a kernel that lets users make namespaces.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

BRIDGE = "pods"


def enter(gateways: Sequence[str]) -> None:
    """Put this process into namespaces of its own; it must have one thread. `gateways` are the
    addresses of the bridge that pods are on, one per region, such as 10.1.0.1.
    """
    user, group = os.getuid(), os.getgid()
    kinds = os.CLONE_NEWNET | os.CLONE_NEWNS
    try:
        os.unshare(kinds)
    except PermissionError:
        _as_root_of_a_user_namespace(kinds, user, group)
    _ip("link", "set", "lo", "up")
    _ip("link", "add", BRIDGE, "type", "bridge")
    for gateway in gateways:
        _ip("addr", "add", f"{gateway}/16", "dev", BRIDGE)
    _ip("link", "set", BRIDGE, "up")


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


def _as_root_of_a_user_namespace(kinds: int, user: int, group: int) -> None:
    try:
        os.unshare(os.CLONE_NEWUSER | kinds)
    except PermissionError as refusal:
        raise RuntimeError(
            "the kernel lets this user make no namespaces; run as root, or allow user namespaces"
        ) from refusal
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> None:
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(f"{' '.join(command)}: {ran.stderr.strip()}")
