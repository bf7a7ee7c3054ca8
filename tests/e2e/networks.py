"""Hosts with networks of their own on this machine: namespaces, joined as a node pool's hosts are.

Each host has eth0, the pod's network, and eth1, which a claim would bring: both are veth pairs to
a bridge, in a namespace that plays the switch. Needs root and iproute2.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

# What lies in a folder of a namespace's name is put over /etc by `ip netns exec`.
_ETC = Path("/etc/netns")
# Of a GKE network for TPU slices.
CLAIMED_MTU = 8896
_NETWORKS = {"eth0": ("10.77.0", 1500), "eth1": ("10.78.0", CLAIMED_MTU)}


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class Networks:
    """Namespaces of `size` hosts and their switch. Use it in `with`."""

    def __init__(self, size: int) -> None:
        mark = uuid.uuid4().hex[:8]
        self.switch = f"antipode-{mark}-switch"
        self.hosts = [f"antipode-{mark}-{index}" for index in range(size)]

    def __enter__(self) -> Networks:
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for namespace in (*self.hosts, self.switch):
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "delete", namespace)
            shutil.rmtree(_ETC / namespace, ignore_errors=True)

    def namespace(self, index: int) -> str:
        return self.hosts[index]

    @staticmethod
    def address(index: int, interface: str = "eth0") -> str:
        return f"{_NETWORKS[interface][0]}.{index + 1}"

    def cut(self, index: int, interface: str) -> None:
        """Pull a host's cable, at the switch: neither side is told."""
        ip("-n", self.switch, "link", "set", f"{interface}-{index}", "nomaster")

    def link(self, index: int) -> dict[str, str]:
        """How host 0's metrics say that it reaches a host whose claimed interface leads to it."""
        address = self.address(index, "eth1")
        return {"network": "claimed", "interface": "eth1", "address": address}

    @contextlib.contextmanager
    def inside(self, index: int) -> Iterator[None]:
        """This thread, and threads it starts, in a host's network."""
        own = f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net"
        with open(own) as before, open(f"/run/netns/{self.hosts[index]}") as there:
            os.setns(there.fileno(), os.CLONE_NEWNET)
            try:
                yield
            finally:
                os.setns(before.fileno(), os.CLONE_NEWNET)

    def _make(self) -> None:
        for namespace in (self.switch, *self.hosts):
            ip("netns", "add", namespace)
            ip("-n", namespace, "link", "set", "lo", "up")
        for interface, (network, mtu) in _NETWORKS.items():
            bridge = f"br-{interface}"
            ip("-n", self.switch, "link", "add", bridge, "mtu", str(mtu), "type", "bridge")
            ip("-n", self.switch, "link", "set", bridge, "up")
            for index, namespace in enumerate(self.hosts):
                self._plug(namespace, interface, f"{network}.{index + 1}/24", mtu, index)
        for index, namespace in enumerate(self.hosts):
            gateway = f"{_NETWORKS['eth0'][0]}.254"
            ip("-n", namespace, "route", "add", "default", "via", gateway, "dev", "eth0")
            self._write_hosts(index)

    def _write_hosts(self, index: int) -> None:
        """A host's name is its address on the pods' network, as the kubelet writes it."""
        etc = _ETC / self.hosts[index]
        etc.mkdir(parents=True)
        own = f"{self.address(index)} {socket.gethostname()}"
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n{own}\n")

    def _plug(self, host: str, interface: str, address: str, mtu: int, index: int) -> None:
        """A cable from a host's interface to the switch."""
        port, size = f"{interface}-{index}", ("mtu", str(mtu))
        peer = ("peer", "name", interface, *size, "netns", host)
        ip("-n", self.switch, "link", "add", port, *size, "type", "veth", *peer)
        ip("-n", self.switch, "link", "set", port, "master", f"br-{interface}", "up")
        ip("-n", host, "address", "add", address, "dev", interface)
        ip("-n", host, "link", "set", interface, "up")


class Loopback:
    """In place of them, where this machine makes none."""

    @staticmethod
    def namespace(index: int) -> str:
        return ""

    @staticmethod
    def address(index: int) -> str:
        return "127.0.0.1"

    @staticmethod
    def link(index: int) -> dict[str, str]:
        return {"network": "pod", "interface": "", "address": "127.0.0.1"}

    @staticmethod
    def inside(index: int) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def are_possible() -> bool:
    """Whether this machine lets us make them."""
    try:
        with Networks(1):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False
