"""Reads the facts about a slice: JAX's devices, the variables of a TPU node, the chart's claim.

Each source gives what it knows, leaves the rest empty and knows no other source. `resolve` compares
them. This module imports no JAX: its caller passes the devices.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from server.config.engine_config import EngineConfig

if TYPE_CHECKING:
    import jax

# Names of each generation: Antipode's, JAX's device kinds, GKE's node labels, accelerator types.
_NAMES = {
    "v4": ("v4", "tpu v4", "tpu-v4-podslice"),
    "v5e": ("v5e", "tpu v5 lite", "tpu v5e", "tpu-v5-lite-podslice", "v5litepod"),
    "v5p": ("v5p", "tpu v5", "tpu v5p", "tpu-v5p-slice"),
    "v6e": ("v6e", "tpu v6 lite", "tpu v6e", "tpu-v6e-slice"),
    "v7x": ("v7x", "tpu7x", "tpu v7x"),
}
_GENERATIONS = {name: generation for generation, names in _NAMES.items() for name in names}
# The chips of these generations lie in a plane: JAX's third coordinate means nothing.
_FLAT = ("v5e", "v6e")

# The DRA driver of TPUs sets such a variable for each device that a ResourceClaim brought.
_CHIP_CLAIM = re.compile(r"TPU_DEVICE_.+_RESOURCE_CLAIM")


class SliceMismatchError(ValueError):
    """A slice that is not the one asked for; the message names both values and what to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceClaim:
    """What the chart asks for; empty and 0 where it asks for nothing. `chips` count all hosts."""

    accelerator: str = ""
    topology: str = ""
    chips: int = 0
    name: str = ""
    interface_class: str = ""
    chip_claim: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TpuEnvironment:
    """What the variables of a TPU node say; empty and 0 where a variable is missing.

    `chip_claims` are the UIDs of the ResourceClaims that brought chips, without duplicates.
    """

    generation: str = ""
    topology: str = ""
    chips_per_host: int = 0
    hosts: int = 0
    chip_claims: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """What JAX found on all hosts. Where JAX does not say, `topology` is "" and memory is None.

    `count` is the number of devices that JAX sees: two per chip of a v7x.
    """

    generation: str
    count: int
    chips: int
    hosts: int = 1
    host_index: int = 0
    topology: str = ""
    hbm_bytes_per_chip: int | None = None


def read_claim(config: EngineConfig) -> SliceClaim:
    """The claim in the settings. Raises SliceMismatchError for a malformed topology."""
    if config.slice_topology:
        topology_size(config.slice_topology, "slice_topology")
    return SliceClaim(
        accelerator=config.slice_accelerator and generation_of(config.slice_accelerator),
        topology=config.slice_topology,
        chips=config.slice_chips,
        name=config.claim_name,
        interface_class=config.interface_class,
        chip_claim=config.chip_claim_name,
    )


def read_environment(environment: Mapping[str, str]) -> TpuEnvironment:
    """The variables that GKE, the DRA driver of TPUs and libtpu use; each is optional.

    An unknown accelerator type gives no generation: new types appear before the table knows them.
    Raises SliceMismatchError for a malformed topology or malformed bounds.
    """
    topology = environment.get("TPU_TOPOLOGY", "")
    if topology:
        topology_size(topology, "TPU_TOPOLOGY")
    kind = environment.get("TPU_ACCELERATOR_TYPE", "")
    return TpuEnvironment(
        generation=_GENERATIONS.get(_without_size(kind), ""),
        topology=topology,
        chips_per_host=_bounds(environment, "TPU_CHIPS_PER_HOST_BOUNDS"),
        hosts=_bounds(environment, "TPU_HOST_BOUNDS"),
        chip_claims=_chip_claims(environment),
    )


def describe_devices(devices: Sequence[jax.Device], hosts: int, host_index: int) -> Devices:
    """The facts of all hosts' devices. Memory is that of the smallest chip of this host."""
    first = devices[0]
    generation = generation_of(first.device_kind) if first.platform == "tpu" else first.platform
    places = {tuple(device.coords) for device in devices if hasattr(device, "coords")}
    on_chips = first.platform == "tpu" and bool(places)
    chips = len(places) if on_chips else len(devices)
    return Devices(
        generation=generation,
        count=len(devices),
        chips=chips,
        hosts=hosts,
        host_index=host_index,
        topology=_extent(places, generation) if on_chips else "",
        hbm_bytes_per_chip=_memory(devices, host_index, len(devices) // chips),
    )


def generation_of(name: str) -> str:
    """The generation that a name means; an unknown name is returned as it is."""
    return _GENERATIONS.get(_without_size(name), name)


def topology_size(topology: str, source: str) -> int:
    """The number of chips of a topology such as 2x4. Raises SliceMismatchError if malformed."""
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", topology):
        raise SliceMismatchError(
            f"{source} is {topology!r}; it must be a topology such as 2x2 or 2x2x1"
        )
    return math.prod(map(int, topology.split("x")))


def _without_size(name: str) -> str:
    """The accelerator type without its number of chips: v6e for v6e-4."""
    return re.sub(r"-\d+$", "", name.lower())


def _bounds(environment: Mapping[str, str], variable: str) -> int:
    """The product of bounds such as 2,2,1; 0 where the variable is missing."""
    text = environment.get(variable, "")
    if not text:
        return 0
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise SliceMismatchError(f"{variable} is {text!r}; it must be bounds such as 2,2,1")
    return math.prod(map(int, text.split(",")))


def _chip_claims(environment: Mapping[str, str]) -> tuple[str, ...]:
    found = {uid for name, uid in environment.items() if _CHIP_CLAIM.fullmatch(name) and uid}
    return tuple(sorted(found))


def _extent(places: set[tuple[int, ...]], generation: str) -> str:
    extents = [max(axis) - min(axis) + 1 for axis in zip(*places, strict=True)]
    return "x".join(map(str, extents[:2] if generation in _FLAT else extents))


def _memory(devices: Sequence[jax.Device], host_index: int, per_chip: int) -> int | None:
    """The bytes of one chip's memory; None on CPU, where devices use the host's memory."""
    if devices[0].platform == "cpu":
        return None
    local = [device for device in devices if device.process_index == host_index]
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in local]
    known = [limit for limit in limits if limit is not None]
    return min(known) * per_chip if known else None
