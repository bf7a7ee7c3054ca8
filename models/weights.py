"""From a checkpoint to sharded device arrays, leaf by leaf.

A device's shard of one layer is read alone and put there before the next is read, so the host holds
no more than that. Where a leaf comes from is `tensors`' business; what it computes, `layers`'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from models.checkpoint import Checkpoint
from models.config import ModelConfig
from models.decoder import Decoder
from models.layout import DecoderLayout
from models.sharding import TENSOR, partition_spec, tensor_size
from models.sources import Shard, Source
from models.tensors import sources_of

type Progress = Callable[[str, float], None]
type Index = tuple[slice, ...]


def abstract_decoder(config: ModelConfig, layout: DecoderLayout) -> Decoder:
    """The model with shapes in place of arrays."""
    model: Decoder = nnx.eval_shape(lambda: Decoder(nnx.Rngs(0), config, layout))
    return model


def leaf_shardings(model: Decoder, mesh: Mesh) -> list[NamedSharding]:
    """The sharding of every leaf, in flattening order."""
    return [_sharding(variable, mesh) for _, variable in _variables(model)]


def is_kv_unit(model: Decoder) -> list[bool]:
    """Of every leaf, in flattening order, whether it holds the units of keys and values."""
    return ["kv_scale" in path for path, _ in _variables(model)]


def load_leaves(
    model: Decoder,
    checkpoint: Checkpoint,
    mesh: Mesh,
    progress: Progress = lambda detail, fraction: None,
) -> list[jax.Array]:
    """The leaves of `model` from a checkpoint, sharded over `mesh`, in flattening order.

    Every tensor's presence and shape is checked before the first is read. Raises CheckpointError.
    """
    config, kv_heads = model.config, model.layout.kv_heads(model.config)
    variables = list(_variables(model))
    sources = [
        sources_of(path, config, kv_heads, variable.dtype == jnp.int8)
        for path, variable in variables
    ]
    for name, shape in (need for group in sources for one in group for need in one.tensors()):
        checkpoint.check(name, shape)
    leaves, done, total = [], 0, sum(variable.size for _, variable in variables)
    for (path, variable), group in zip(variables, sources, strict=True):
        sharding = _sharding(variable, mesh)
        if _is_stacked(path, model.layout):
            leaf = _load_stacked(variable, sharding, group, checkpoint, mesh)
        else:
            leaf = _load(variable.shape, variable.dtype, sharding, group[0], checkpoint, mesh)
        leaves.append(leaf)
        done += variable.size
        progress("loading weights", done / total)
    return leaves


def random_leaves(
    config: ModelConfig, layout: DecoderLayout, mesh: Mesh, seed: int = 0
) -> list[jax.Array]:
    """Leaves drawn by the declarations' initializers: for tests and benchmarks."""
    shardings = leaf_shardings(abstract_decoder(config, layout), mesh)

    def make() -> list[jax.Array]:
        return jax.tree.leaves(nnx.state(Decoder(nnx.Rngs(seed), config, layout)))

    made: list[jax.Array] = jax.jit(make, out_shardings=shardings)()
    return made


def _variables(model: Decoder) -> Iterator[tuple[tuple[Any, ...], Any]]:
    yield from nnx.to_flat_state(nnx.state(model))


def _is_stacked(path: tuple[Any, ...], layout: DecoderLayout) -> bool:
    return layout.stacked and path[0] == "layers"


def _sharding(variable: Any, mesh: Mesh) -> NamedSharding:
    axes = variable.get_metadata("logical_axes")
    stacked: tuple[str | None, ...] = ("layers",) * (len(variable.shape) - len(axes))
    return NamedSharding(mesh, partition_spec(stacked + axes))


def _load_stacked(
    variable: Any,
    sharding: NamedSharding,
    sources: list[Source],
    checkpoint: Checkpoint,
    mesh: Mesh,
) -> jax.Array:
    """A leaf of all layers, filled in place one layer at a time."""
    shape, dtype = variable.shape, variable.dtype
    of_layer = NamedSharding(mesh, PartitionSpec(*sharding.spec[1:]))
    leaf: jax.Array = jax.jit(partial(jnp.zeros, shape, dtype), out_shardings=sharding)()

    @partial(jax.jit, donate_argnums=0, out_shardings=sharding)
    def put(leaf: jax.Array, part: jax.Array, layer: jax.Array) -> jax.Array:
        return leaf.at[layer].set(part)

    for layer, source in enumerate(sources):
        part = _load(shape[1:], dtype, of_layer, source, checkpoint, mesh)
        leaf = put(leaf, part, np.int32(layer))
    return leaf


def _load(
    shape: tuple[int, ...],
    dtype: Any,
    sharding: NamedSharding,
    source: Source,
    checkpoint: Checkpoint,
    mesh: Mesh,
) -> jax.Array:
    axis = next((i for i, name in enumerate(sharding.spec) if name == TENSOR), None)
    count = tensor_size(mesh)

    def read(index: Index | None) -> np.ndarray:
        start = 0 if axis is None or index is None else index[axis].start or 0
        each = 1 if axis is None else shape[axis] // count
        shard = Shard(start // each, count)
        return np.ascontiguousarray(source.read(checkpoint, shard).astype(dtype))

    # Not `make_array_from_callback`: it would hold the shards of all devices at once.
    parts = [
        jax.device_put(read(index), device).block_until_ready()
        for device, index in sharding.addressable_devices_indices_map(shape).items()
    ]
    return jax.make_array_from_single_device_arrays(shape, sharding, parts)
