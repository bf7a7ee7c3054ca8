"""Lists the network interfaces of this pod, as Linux shows them: name, IPv4 address, MTU.

The default interface is the interface of the default route (eth0 in a pod). A claim or the node
brought every other interface that is up. Without /sys, the list is empty.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

_SYS = Path("/sys/class/net")
_ROUTES = Path("/proc/net/route")
_POD_DEFAULT = "eth0"
_EVERYWHERE = "00000000"
_IFF_UP = 0x1
_IFF_LOOPBACK = 0x8
_SIOCGIFADDR = 0x8915


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """One interface that is up. `address` is "" if it has no IPv4 address; `mtu` is in bytes."""

    name: str
    address: str
    mtu: int
    is_default: bool = False


def read_interfaces(
    sys: Path = _SYS, routes: Path = _ROUTES, address_of: Callable[[str], str] | None = None
) -> tuple[Interface, ...]:
    """The interfaces that are up, sorted by name, without loopback."""
    if not sys.is_dir():
        return ()
    default = _default_interface(routes)
    find_address = address_of or ipv4_address
    return tuple(
        Interface(
            name=folder.name,
            address=find_address(folder.name),
            mtu=int((folder / "mtu").read_text()),
            is_default=folder.name == default,
        )
        for folder in sorted(sys.iterdir())
        if (folder / "flags").is_file() and _is_up(folder)
    )


def claimed(interfaces: Iterable[Interface]) -> tuple[Interface, ...]:
    """The interfaces that a claim or the node brought: all but the pod's default."""
    return tuple(each for each in interfaces if not each.is_default)


def ipv4_address(name: str) -> str:
    """The first IPv4 address of an interface; "" if it has none."""
    request = struct.pack("256s", name.encode()[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
        except OSError:
            return ""
    return socket.inet_ntoa(answer[20:24])


def _is_up(folder: Path) -> bool:
    flags = int((folder / "flags").read_text(), 16)
    return bool(flags & _IFF_UP) and not flags & _IFF_LOOPBACK


def _default_interface(routes: Path) -> str:
    """The interface of the first default route."""
    try:
        lines = routes.read_text().splitlines()[1:]
    except OSError:
        return _POD_DEFAULT
    fields = (line.split() for line in lines)
    return next((name for name, to, *_ in fields if to == _EVERYWHERE), _POD_DEFAULT)
