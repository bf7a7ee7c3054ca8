"""Which hosts make up the slice, and which of them this is.

Told by the variables GKE gives the workers of a slice, or by those of a LeaderWorkerSet; a host
alone needs none. It connects to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from server.slice.sources import SliceMismatchError


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The hosts in order of their index. `source` says who named them; "" for a host alone."""

    hostnames: tuple[str, ...] = ()
    index: int = 0
    source: str = ""

    @property
    def size(self) -> int:
        return max(1, len(self.hostnames))

    @property
    def is_several(self) -> bool:
        return self.size > 1


def find_group(environment: Mapping[str, str]) -> Group:
    """The group by the variables.

    Raises SliceMismatchError where two of them disagree, or an index is missing or out of range.
    """
    named = _named_hosts(environment)
    if not named:
        return Group()
    source, hostnames = named[0]
    for other, others in named[1:]:
        if len(others) != len(hostnames):
            raise SliceMismatchError(
                f"hosts are {len(hostnames)} according to {source} but {len(others)} according to "
                f"{other}: set the size of the chart's group, so that both agree"
            )
    return Group(
        hostnames=hostnames, index=_index(environment, source, len(hostnames)), source=source
    )


def _named_hosts(environment: Mapping[str, str]) -> list[tuple[str, tuple[str, ...]]]:
    """Who names hosts, and which."""
    listed = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
    named = [
        ("TPU_WORKER_HOSTNAMES", tuple(name.strip() for name in listed if name.strip())),
        ("LWS_GROUP_SIZE", _leader_worker_set(environment)),
    ]
    return [(source, names) for source, names in named if names]


def _leader_worker_set(environment: Mapping[str, str]) -> tuple[str, ...]:
    """A LeaderWorkerSet calls its leader NAME.SERVICE and the others NAME-1.SERVICE and so on."""
    leader = environment.get("LWS_LEADER_ADDRESS", "")
    if not leader:
        return ()
    name, dot, domain = leader.partition(".")
    size = _number(environment, "LWS_GROUP_SIZE") or 1
    return (leader, *(f"{name}-{i}{dot}{domain}" for i in range(1, size)))


def _index(environment: Mapping[str, str], source: str, size: int) -> int:
    known = {name: _number(environment, name) for name in ("TPU_WORKER_ID", "LWS_WORKER_INDEX")}
    given = [(name, index) for name, index in known.items() if index is not None]
    if not given and size > 1:
        raise SliceMismatchError(
            f"{source} names {size} hosts but nothing says which of them this is: set TPU_WORKER_ID"
            f" to a number from 0 to {size - 1}"
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
