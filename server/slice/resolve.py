"""Resolves one slice from several sources; each may be missing, but no two may disagree.

JAX's devices come first, then the variables of the node, then the chart's claim. If two sources
disagree, the server refuses to start: on other chips than intended it would be slow or wrong, and
nobody would notice. This module reads no source itself.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass, field

from server.slice.host_group import Group
from server.slice.interfaces import Interface, claimed
from server.slice.reported_slice import (
    Devices,
    SliceClaim,
    SliceMismatchError,
    TpuEnvironment,
    topology_size,
)

_JAX = "JAX's devices"
_WITHOUT_CHIPS = ("cpu", "gpu")
_ADVICE = {
    "accelerator": "change slice in the chart's values, or the node pool and the "
    "google.com/tpu request or chip claim of its pods",
    "topology": "change slice in the chart's values, or the topology of the node pool",
    "chips": "change slice in the chart's values, or the google.com/tpu request or chip claim of "
    "its pods",
    "hosts": "change the size of the group of pods, or the topology of the node pool",
    "host_index": "leave TPU_WORKER_ID to the pod's own controller",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What each source says; a source that says nothing is left empty."""

    devices: Devices | None = None
    environment: TpuEnvironment = field(default_factory=TpuEnvironment)
    claim: SliceClaim = field(default_factory=SliceClaim)
    interfaces: tuple[Interface, ...] = ()
    group: Group = field(default_factory=Group)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """What this server runs on. `generation` is cpu or gpu where there is no TPU, "" if unknown.

    `chips` and `devices` count all hosts. `devices` is what JAX sees: two per chip of a v7x.
    `chip_claims` are the UIDs of the ResourceClaims that brought this host's chips; none where the
    device plugin brought them.
    Where no source gives them, `topology` is "" and `hbm_bytes_per_chip` is None.
    """

    generation: str
    topology: str
    chips: int
    devices: int
    hosts: int
    host_index: int
    hostnames: tuple[str, ...]
    hbm_bytes_per_chip: int | None
    interfaces: tuple[Interface, ...]
    claim: SliceClaim = field(default_factory=SliceClaim)
    chip_claims: tuple[str, ...] = ()

    @property
    def claimed_interfaces(self) -> tuple[Interface, ...]:
        """The interfaces that are not the pod's default."""
        return claimed(self.interfaces)


def resolve(sources: Sources) -> Slice:
    """The slice that all sources agree on. Raises SliceMismatchError where two disagree."""
    devices, claim = sources.devices, sources.claim
    _check_chip_claim(sources)
    generation = _agree("accelerator", _generations(sources)) or ""
    topology = _agree("topology", _topologies(sources)) or ""
    chips = _agree("chips", _chips(sources)) or 0
    hosts = _agree("hosts", _hosts(sources)) or 1
    index = _agree("host_index", _indexes(sources)) or 0
    _check_claim(claim, sources.interfaces)
    return Slice(
        generation=generation,
        topology=topology,
        chips=chips,
        devices=devices.count if devices else chips,
        hosts=hosts,
        host_index=index,
        hostnames=sources.group.hostnames or (socket.gethostname(),),
        hbm_bytes_per_chip=devices.hbm_bytes_per_chip if devices else None,
        interfaces=sources.interfaces,
        claim=claim,
        chip_claims=sources.environment.chip_claims,
    )


def _generations(sources: Sources) -> list[tuple[str, str | None]]:
    devices = sources.devices
    return [
        (_JAX, devices.generation if devices else None),
        ("TPU_ACCELERATOR_TYPE", sources.environment.generation),
        ("slice_accelerator", sources.claim.accelerator),
    ]


def _topologies(sources: Sources) -> list[tuple[str, str | None]]:
    devices = sources.devices
    return [
        (_JAX, devices.topology if devices else None),
        ("TPU_TOPOLOGY", sources.environment.topology),
        ("slice_topology", sources.claim.topology),
    ]


def _chips(sources: Sources) -> list[tuple[str, int | None]]:
    devices, environment, claim = sources.devices, sources.environment, sources.claim
    return [
        (_JAX, devices.chips if devices else None),
        ("TPU_TOPOLOGY", _size(environment.topology)),
        (
            "TPU_CHIPS_PER_HOST_BOUNDS and TPU_HOST_BOUNDS",
            environment.chips_per_host * environment.hosts,
        ),
        ("slice_chips", claim.chips),
        ("slice_topology", _size(claim.topology)),
    ]


def _hosts(sources: Sources) -> list[tuple[str, int | None]]:
    devices, group = sources.devices, sources.group
    return [
        ("JAX's processes", devices.hosts if devices else None),
        (group.source, group.size if group.source else None),
        ("TPU_HOST_BOUNDS", sources.environment.hosts),
    ]


def _indexes(sources: Sources) -> list[tuple[str, int | None]]:
    devices, group = sources.devices, sources.group
    return [
        ("JAX's processes", devices.host_index if devices else None),
        (group.source, group.index if group.source else None),
    ]


def _agree[T: (str, int)](what: str, facts: Iterable[tuple[str, T | None]]) -> T | None:
    """The first known value. Empty and 0 mean unknown, except that an index may be 0."""
    known = [
        (source, value)
        for source, value in facts
        if value or (value is not None and what == "host_index")
    ]
    for source, value in known[1:]:
        first_source, first = known[0]
        if _comparable(value) != _comparable(first):
            raise SliceMismatchError(
                f"{what} is {first} according to {first_source} but {value} according to {source}:"
                f" {_ADVICE[what]}, so that both agree"
            )
    return known[0][1] if known else None


def _comparable(value: str | int) -> object:
    """A topology's extents in any order; a third axis of 1 is the same as no third axis."""
    if isinstance(value, str) and "x" in value and value[0].isdigit():
        extents = sorted(map(int, value.split("x")), reverse=True)
        return extents[:2] if extents[2:] == [1] else extents
    return value


def _size(topology: str) -> int | None:
    return topology_size(topology, "topology") if topology else None


def _check_claim(claim: SliceClaim, interfaces: tuple[Interface, ...]) -> None:
    """Refuse a claim whose interfaces did not reach the server's container."""
    asked = claim.name or claim.interface_class
    if not asked or claimed(interfaces):
        return
    there = ", ".join(each.name for each in interfaces) or "none"
    raise SliceMismatchError(
        f"claim {claim.name or 'without a name'} (class {claim.interface_class or 'not given'}) "
        f"must bring network interfaces, but the pod's interfaces are: {there}; list the claim in "
        "resources.claims of the server's container, or set dranet.enabled to false in the chart's "
        "values"
    )


def _check_chip_claim(sources: Sources) -> None:
    """Refuse chips that came another way than the chart asked for."""
    claim, brought = sources.claim, sources.environment.chip_claims
    if brought and claim.chips and not claim.chip_claim:
        raise SliceMismatchError(
            f"chips were brought by the claim {', '.join(brought)} according to "
            f"TPU_DEVICE_*_RESOURCE_CLAIM but by the device plugin according to chip_claim_name, "
            "which is empty: set sliceChips to claim in the chart's values, or use nodes without "
            "the label cloud.google.com/gke-tpu-dra-driver"
        )
    found = sources.devices.generation if sources.devices else ""
    if claim.chip_claim and not brought and found in _WITHOUT_CHIPS:
        raise SliceMismatchError(
            f"claim {claim.chip_claim} must bring TPU chips according to chip_claim_name, but "
            f"JAX's devices are {found} and no TPU_DEVICE_*_RESOURCE_CLAIM is set: list the claim "
            "in resources.claims of the server's container, or set sliceChips to devicePlugin in "
            "the chart's values"
        )
