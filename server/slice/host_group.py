"""Finds the hosts that make up the slice, and this host's index among them.

The settings name the hosts, or the variables that GKE gives to the workers of a slice, or the
variables of a LeaderWorkerSet. A single host needs none of these. This module connects to nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from server.config.engine_config import EngineConfig
from server.slice.reported_slice import SliceMismatchError

# Seconds until a lost host is noticed where its processes died but its machine still runs.
LOSS_SECONDS = 1.0

type _Hosts = tuple[str, ...]


class GroupError(RuntimeError):
    """A group that did not come together or cannot go on; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLink:
    """The connection to another host. `interface` is "" for the pod's own network."""

    index: int
    interface: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The hosts in the order of their index. `source` is what named them; "" for a single host.

    Host 0 is the leader. It waits for the other hosts at `port`; JAX's coordinator uses the next
    port.
    """

    hostnames: tuple[str, ...] = ()
    index: int = 0
    source: str = ""
    port: int = 0

    @property
    def size(self) -> int:
        return max(1, len(self.hostnames))

    @property
    def is_several(self) -> bool:
        return self.size > 1

    @property
    def is_follower(self) -> bool:
        return self.index > 0

    @property
    def listening_address(self) -> str:
        """All interfaces, since one is the claimed one; only loopback where all hosts are here."""
        leader = self.hostnames[0]
        return leader if leader == "localhost" or _is_loopback(leader) else ""


def find_group(config: EngineConfig, environment: Mapping[str, str]) -> Group:
    """The group that the settings and the variables name.

    Raises SliceMismatchError where two of them disagree, or where an index is missing or out of
    range.
    """
    named = _named_hosts(config, environment)
    if not named:
        return Group()
    source, hostnames = named[0]
    for other, others in named[1:]:
        if len(others) != len(hostnames):
            raise SliceMismatchError(
                f"hosts are {len(hostnames)} according to {source} but {len(others)} according to "
                f"{other}: set the size of the chart's group, so that both agree"
            )
    index = _index(config, environment, source, len(hostnames))
    leader, port = _split_port(hostnames[0], config.group_port)
    others = tuple(_split_port(name, 0)[0] for name in hostnames[1:])
    return Group(hostnames=(leader, *others), index=index, source=source, port=port)


def _named_hosts(config: EngineConfig, environment: Mapping[str, str]) -> list[tuple[str, _Hosts]]:
    """Each source that names hosts, and the hosts it names."""
    named = [
        ("hosts", _listed(config.hosts)),
        ("TPU_WORKER_HOSTNAMES", _listed(environment.get("TPU_WORKER_HOSTNAMES", ""))),
        ("LWS_GROUP_SIZE", _leader_worker_set(environment)),
    ]
    return [(source, names) for source, names in named if names]


def _listed(names: str) -> _Hosts:
    return tuple(name.strip() for name in names.split(",") if name.strip())


def _leader_worker_set(environment: Mapping[str, str]) -> _Hosts:
    """A LeaderWorkerSet calls its leader NAME.SERVICE and the others NAME-1.SERVICE and so on."""
    leader = environment.get("LWS_LEADER_ADDRESS", "")
    if not leader:
        return ()
    name, dot, domain = leader.partition(".")
    size = _number(environment, "LWS_GROUP_SIZE") or 1
    return (leader, *(f"{name}-{i}{dot}{domain}" for i in range(1, size)))


def _index(config: EngineConfig, environment: Mapping[str, str], source: str, size: int) -> int:
    known = {
        "host_index": None if config.host_index < 0 else config.host_index,
        "TPU_WORKER_ID": _number(environment, "TPU_WORKER_ID"),
        "LWS_WORKER_INDEX": _number(environment, "LWS_WORKER_INDEX"),
    }
    given = [(name, index) for name, index in known.items() if index is not None]
    if not given and size > 1:
        raise SliceMismatchError(
            f"{source} names {size} hosts but nothing gives this host's index: set host_index "
            "(TPU_WORKER_ID and LWS_WORKER_INDEX are set by the pod's own controller)"
        )
    name, index = given[0] if given else ("", 0)
    for other, another in given[1:]:
        if another != index:
            raise SliceMismatchError(
                f"this host's index is {index} according to {name} but {another} according to "
                f"{other}: leave both to the pod's own controller"
            )
    if index >= size:
        raise SliceMismatchError(
            f"{name} is {index}, but {source} names {size} hosts: it must be below {size}"
        )
    return index


def _number(environment: Mapping[str, str], variable: str) -> int | None:
    text = environment.get(variable, "")
    if not text:
        return None
    if not text.isdecimal():
        raise SliceMismatchError(f"{variable} is {text!r}; it must be a number")
    return int(text)


def _split_port(host: str, default: int) -> tuple[str, int]:
    """HOST, HOST:PORT or [IPV6]:PORT."""
    name, colon, port = host.rpartition(":")
    if not colon or (":" in name and not name.endswith("]")):
        return host.strip("[]"), default
    if not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise SliceMismatchError(f"hosts has {host!r}; a port must be a number below 65536")
    return name.strip("[]"), int(port)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
