"""The slices that a plan can be made for, and the properties of their chips.

The usable memory is what libtpu's compiler reports. Bandwidth and peak are the published numbers of
a chip, divided by its devices where JAX sees more than one. What a machine has beside its chips is
in the chart (`_machines.tpl`). No source gives the clocks: they are
assumed to be the peak divided by the operations that a matrix unit does per cycle. This module
imports no JAX, because a slice's environment must be set before JAX is imported.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jax

GIB = 1 << 30


_NEEDED_PACKAGES = ("libtpu", "tokamax")


class SliceError(ValueError):
    """An unknown slice; the message lists the known ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """One JAX device of a generation, in bytes, bytes per second, FLOP per second and cycles per
    second.

    `devices_per_chip` is 2 for a v7x: JAX sees each half of its chips as a device.
    `ici_bytes_per_s` is what a chip sends over two links, which is all that a chip has in a slice
    of 2x2. It is assumed.
    """

    generation: str
    hbm_bytes: int
    hbm_bytes_per_s: float
    flops: float
    clock_hz: float
    ici_bytes_per_s: float
    devices_per_chip: int = 1


_V5E = Chip(
    generation="v5e",
    hbm_bytes=int(15.75 * GIB),
    hbm_bytes_per_s=819e9,
    flops=197e12,
    clock_hz=1.5e9,
    ici_bytes_per_s=90e9,
)
_V6E = Chip(
    generation="v6e",
    hbm_bytes=int(31.24 * GIB),
    hbm_bytes_per_s=1640e9,
    flops=918e12,
    clock_hz=1.75e9,
    ici_bytes_per_s=180e9,
)
_V5P = Chip(
    generation="v5p",
    hbm_bytes=int(95.73 * GIB),
    hbm_bytes_per_s=2765e9,
    flops=459e12,
    clock_hz=1.75e9,
    ici_bytes_per_s=180e9,
)
_V7X = Chip(
    generation="v7x",
    hbm_bytes=int(94.74 * GIB),
    hbm_bytes_per_s=3690e9,
    flops=1153.5e12,
    clock_hz=2.2e9,
    ici_bytes_per_s=360e9,
    devices_per_chip=2,
)
# This machine, to try what needs no TPU. Its memory is no limit, and it has no clock.
_CPU = Chip(
    generation="cpu",
    hbm_bytes=0,
    hbm_bytes_per_s=0.0,
    flops=0.0,
    clock_hz=0.0,
    ici_bytes_per_s=0.0,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceType:
    """One shape of slice. `devices` is the number that JAX sees: two per chip of a v7x.

    `host_bounds` are the chips of one host along each axis, where the compiler's own do not apply.
    """

    name: str
    chip: Chip
    topology: str
    accelerator_type: str
    devices: int
    hosts: int
    host_bounds: tuple[int, int, int] | None = None

    def set_environment(self, environment: MutableMapping[str, str]) -> None:
        """Let libtpu compile on a machine without a TPU. Call this before JAX is imported."""
        environment["JAX_PLATFORMS"] = "cpu"
        if self.chip is _CPU:
            return
        environment["TPU_ACCELERATOR_TYPE"] = self.accelerator_type
        environment["TPU_WORKER_HOSTNAMES"] = "localhost"
        # The library is only used to compile, so several plans may be made at the same time.
        environment["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
        # A client that can only compile cannot load programs from a cache.
        environment["JAX_ENABLE_COMPILATION_CACHE"] = "false"
        environment.setdefault("TPU_SKIP_MDS_QUERY", "1")
        environment.setdefault("TPU_MIN_LOG_LEVEL", "3")
        environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

    def find_devices(self) -> list[jax.Device]:
        """The slice's devices as the compiler knows them. They can neither hold arrays nor run."""
        import jax
        from jax.experimental import topologies

        if self.chip is _CPU:
            return jax.devices("cpu")
        bounds = {} if self.host_bounds is None else {"chips_per_host_bounds": self.host_bounds}
        topology = topologies.get_topology_desc(
            platform="tpu", topology_name=self.topology, **bounds
        )
        return list(topology.devices)


def _slice(
    chip: Chip,
    shape: str,
    accelerator_type: str,
    devices: int,
    hosts: int = 1,
    host_bounds: tuple[int, int, int] | None = None,
) -> SliceType:
    prefix = "tpu7x" if chip is _V7X else chip.generation
    return SliceType(
        name=f"{chip.generation}:{shape}",
        chip=chip,
        topology=f"{prefix}:{shape}",
        accelerator_type=accelerator_type,
        devices=devices,
        hosts=hosts,
        host_bounds=host_bounds,
    )


_SLICES = (
    _slice(_V5E, "1x1", "v5litepod-1", 1, host_bounds=(1, 1, 1)),
    _slice(_V5E, "2x2", "v5litepod-4", 4),
    _slice(_V5E, "2x4", "v5litepod-8", 8, host_bounds=(2, 4, 1)),
    _slice(_V5E, "4x4", "v5litepod-16", 16, hosts=4),
    _slice(_V6E, "1x1", "v6e-1", 1, host_bounds=(1, 1, 1)),
    _slice(_V6E, "2x2", "v6e-4", 4),
    _slice(_V6E, "2x4", "v6e-8", 8, host_bounds=(2, 4, 1)),
    _slice(_V6E, "4x4", "v6e-16", 16, hosts=4),
    _slice(_V5P, "2x2x1", "v5p-8", 4),
    _slice(_V5P, "2x2x2", "v5p-16", 8, hosts=2),
    _slice(_V7X, "1x1x1", "tpu7x-2", 2, host_bounds=(1, 1, 1)),
    _slice(_V7X, "2x2x1", "tpu7x-8", 8),
    _slice(_V7X, "2x2x2", "tpu7x-16", 16, hosts=2),
)

CPU = SliceType(name="cpu", chip=_CPU, topology="", accelerator_type="", devices=1, hosts=1)


def slice_names() -> tuple[str, ...]:
    """The known slices, smaller ones of a generation first."""
    return tuple(known.name for known in _SLICES)


def find_slice(name: str) -> SliceType:
    """The slice with this name. Raises SliceError for an unknown name."""
    if name == CPU.name:
        return CPU
    for known in _SLICES:
        if name in (known.name, known.topology):
            return known
    raise SliceError(f"slice {name!r} is not known; use one of: {', '.join(slice_names())}")


def larger_slices(than: SliceType) -> tuple[SliceType, ...]:
    """Slices of the same generation with more devices, the smallest first."""
    same = (known for known in _SLICES if known.chip is than.chip)
    return tuple(known for known in same if known.devices > than.devices)


def check_packages(where: SliceType) -> None:
    """Raises ModuleNotFoundError where a package that compiling for a TPU needs is missing."""
    missing = [name for name in _NEEDED_PACKAGES if where.chip.clock_hz and find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"compiling for {where.name} needs {' and '.join(missing)}: install the extra tpu, as "
            "in `uv sync --extra tpu`"
        )
