"""Maps the logical axes of arrays to mesh axes, and decides which meshes a model allows.

A step runs under one `shard_map` over a mesh with the axes `data` and `tensor`. Weights are split
over `tensor` and repeated over `data`; each data rank has its own sequences. Only this module maps
logical to mesh axes. Knows neither layers nor weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from models.config import ModelConfig

DATA = "data"
TENSOR = "tensor"

type LogicalAxes = tuple[str | None, ...]

_RULES: dict[str, str | None] = {
    "layers": None,
    "embed": None,
    "head_dim": None,
    "q_heads": TENSOR,
    "kv_heads": TENSOR,
    "state_heads": TENSOR,
    "mlp": TENSOR,
    "vocab": TENSOR,
    "experts": TENSOR,
    "shards": TENSOR,
}


class MeshError(ValueError):
    """The model or the devices do not allow the mesh; the message names sizes that work."""


def partition_spec(axes: LogicalAxes) -> PartitionSpec:
    """The PartitionSpec of an array with these logical axes."""
    return PartitionSpec(*(None if axis is None else _RULES[axis] for axis in axes))


def is_split(axis: str | None) -> bool:
    """Whether arrays are split along this logical axis."""
    return axis is not None and _RULES[axis] is not None


def named_sharding(mesh: Mesh, axes: LogicalAxes) -> NamedSharding:
    """The sharding of an array with these logical axes on `mesh`."""
    return NamedSharding(mesh, partition_spec(axes))


def allowed_tensor_sizes(config: ModelConfig, num_devices: int) -> tuple[int, ...]:
    """The tensor-parallel sizes up to `num_devices` that divide query heads and MLP or experts.

    KV heads are split if the size divides them, and repeated if the size exceeds them.
    """
    return tuple(size for size in range(1, num_devices + 1) if _divides(config, size))


def check_tensor_size(config: ModelConfig, size: int, num_devices: int) -> None:
    """Raise MeshError if the size does not divide the model or exceeds the devices."""
    allowed = allowed_tensor_sizes(config, num_devices)
    if size not in allowed:
        raise MeshError(
            f"tensor_parallel_size {size} does not suit this model ({config.num_heads} query heads,"
            f" {config.num_kv_heads} KV heads, MLP {config.mlp_size}) on {num_devices} devices;"
            f" these would: {', '.join(map(str, allowed))}"
        )


def make_mesh(
    config: ModelConfig,
    tensor_size: int,
    devices: Sequence[jax.Device] | None = None,
    *,
    data_size: int = 1,
) -> Mesh:
    """A mesh of `data_size` x `tensor_size` devices; neighbours share each layer.

    Further devices stay idle. Raises MeshError if the sizes do not divide the model, exceed the
    devices, or leave a host without a device.
    """
    devices = jax.devices() if devices is None else devices
    check_tensor_size(config, tensor_size, len(devices))
    size = data_size * tensor_size
    if size > len(devices):
        raise MeshError(
            f"data_parallel_size {data_size} times {tensor_size} devices each are more than the "
            f"{len(devices)} there are; {len(devices) // tensor_size} would do"
        )
    without = {device.process_index for device in devices[size:]} - {
        device.process_index for device in devices[:size]
    }
    if without:
        raise MeshError(
            f"a mesh of {data_size} x {tensor_size} devices leaves host {min(without)} without any:"
            " raise data_parallel_size, or serve this model on a slice of fewer hosts"
        )
    return Mesh(np.asarray(devices[:size]).reshape(data_size, tensor_size), (DATA, TENSOR))


def data_size(mesh: Mesh) -> int:
    """The number of data ranks, each with all weights and its own sequences."""
    return int(mesh.shape[DATA])


def tensor_size(mesh: Mesh) -> int:
    """The number of shards along the tensor axis."""
    return int(mesh.shape[TENSOR])


def _divides(config: ModelConfig, size: int) -> bool:
    split = [config.num_heads]
    if config.moe is None or config.moe.beside_mlp or config.moe.shared:
        split.append(config.mlp_size)
    if config.moe is not None:
        split.append(config.moe.num_experts)
    if config.recurrence is not None:
        split += [config.recurrence.num_key_heads, config.recurrence.num_value_heads]
    kv_heads = [config.of_kind(window).num_kv_heads for window in config.windows]
    kv_fits = all(heads % size == 0 or size % heads == 0 for heads in kv_heads)
    return kv_fits and not any(each % size for each in split)


def shardings_of(mesh: Mesh, specs: Any) -> Any:
    """The shardings on a mesh of a tree of specs."""
    is_spec = lambda leaf: isinstance(leaf, PartitionSpec)  # noqa: E731
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=is_spec)
