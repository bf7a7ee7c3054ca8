"""Loads a checkpoint into sharded device arrays, leaf by leaf.

Direct loading reads one device's shard of one layer and puts it on the device before it reads the
next, so the host holds only one such shard. Staging instead keeps all shards in host memory, to
swap them later with the weights on the device. `tensors` knows a leaf's sources, `layers` what a
leaf computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from models.checkpoint.checkpoint import Checkpoint
from models.config import ModelConfig
from models.decoder.decoder import Decoder
from models.decoder.layout import DecoderLayout
from models.sharding import TENSOR, partition_spec, tensor_size
from models.weights.sources import Shard, Source
from models.weights.tensors import sources_of, vocabulary_names

type Progress = Callable[[str, float], None]
# Per leaf, in flattening order: the shards that this host's devices hold, each only once.
type HostLeaves = list[list[np.ndarray]]


def abstract_decoder(config: ModelConfig, layout: DecoderLayout) -> Decoder:
    """The model with shapes in place of arrays."""
    model: Decoder = nnx.eval_shape(lambda: Decoder(nnx.Rngs(0), config, layout))
    return model


def leaf_shardings(model: Decoder, mesh: Mesh | AbstractMesh) -> list[NamedSharding]:
    """The sharding of every leaf, in flattening order."""
    return [_sharding(variable, mesh) for _, variable in _variables(model)]


def is_kv_unit(model: Decoder) -> list[bool]:
    """For every leaf, in flattening order: whether it holds the units of keys and values."""
    return ["kv_scale" in path for path, _ in _variables(model)]


def load_leaves(
    model: Decoder,
    checkpoint: Checkpoint,
    mesh: Mesh,
    progress: Progress = lambda detail, fraction: None,
) -> list[jax.Array]:
    """The leaves of `model` from a checkpoint, for a single load: see `WeightLoader.load`."""
    return WeightLoader(model, mesh).load(checkpoint, progress)


@dataclass(frozen=True, slots=True)
class _Part:
    """The target of one source: leaf number `leaf`, or one layer of a stacked leaf."""

    leaf: int
    layer: int | None
    source: Source


class WeightLoader:
    """Loads checkpoints of one model onto one mesh; only the first load compiles programs.

    A load checks that every tensor exists in its shape before it reads the first one. It reads the
    tensors in the order of the files. Raises CheckpointError.
    """

    def __init__(self, model: Decoder, mesh: Mesh) -> None:
        self._config, self._layout, self._mesh = model.config, model.layout, mesh
        self._variables = list(_variables(model))
        self._shardings = leaf_shardings(model, mesh)

    @property
    def host_bytes(self) -> int:
        """The host memory for staging, in bytes: each shard of this host's devices, once."""
        return sum(
            size * len(set(_shard_numbers(sharding, variable.shape).values()))
            for size, (_, variable), sharding in zip(
                self._shard_bytes(), self._variables, self._shardings, strict=True
            )
        )

    @property
    def device_bytes(self) -> int:
        """The bytes of weights on each device."""
        return sum(self._shard_bytes())

    def check(self, checkpoint: Checkpoint) -> None:
        """Raise CheckpointError unless every tensor exists in its shape.

        Of a tied model with embedding and head, both are read: they must be the same.
        """
        if self._config.tie_embeddings:
            size = self._config.vocab_size, self._config.hidden_size
            checkpoint.tie(*vocabulary_names(self._config), size)
        for part in self._parts():
            for name, shape in part.source.tensors():
                checkpoint.check(name, shape)

    def load(
        self, checkpoint: Checkpoint, progress: Progress = lambda detail, fraction: None
    ) -> list[jax.Array]:
        """The leaves, sharded, in flattening order. The host holds one device's shard of one layer.

        May be called from any thread, but only by one at a time.
        """
        leaves: dict[int, jax.Array] = {}
        for part in self._in_file_order(checkpoint, progress):
            variable, sharding = self._variables[part.leaf][1], self._shardings[part.leaf]
            if part.layer is None:
                leaves[part.leaf] = self._put(part, checkpoint, variable.shape, sharding)
                continue
            stack = self._stack(part.leaf)
            layer = self._put(part, checkpoint, variable.shape[1:], stack.of_layer)
            leaf = leaves[part.leaf] if part.leaf in leaves else stack.zeros()
            leaves[part.leaf] = stack.put(leaf, layer, np.int32(part.layer))
        return [leaves[number] for number in range(len(self._variables))]

    def stage(
        self, checkpoint: Checkpoint, progress: Progress = lambda detail, fraction: None
    ) -> HostLeaves:
        """The leaves in this host's memory; a shard on several of its devices is kept once."""
        leaves: list[list[np.ndarray]] = [[] for _ in self._variables]
        for part in self._in_file_order(checkpoint, progress):
            variable, sharding = self._variables[part.leaf][1], self._shardings[part.leaf]
            shape = variable.shape if part.layer is None else variable.shape[1:]
            of_part = sharding if part.layer is None else self._stack(part.leaf).of_layer
            shards = [array for array, _ in self._read(part, checkpoint, shape, of_part)]
            if part.layer is None:
                leaves[part.leaf] = shards
                continue
            if not leaves[part.leaf]:
                stacked = sharding.shard_shape(variable.shape)
                leaves[part.leaf] = [np.empty(stacked, variable.dtype) for _ in shards]
            for whole, shard in zip(leaves[part.leaf], shards, strict=True):
                whole[part.layer] = shard
        return leaves

    def exchange(self, leaves: list[jax.Array], staged: HostLeaves) -> None:
        """Swap `staged` on the host with `leaves` on the device, leaf by leaf.

        Needs memory for only one more leaf on each side. No step may be using `leaves`.
        """
        for number, old in enumerate(leaves):
            numbers = _shard_numbers(self._shardings[number], old.shape)
            parts = {numbers[shard.device]: shard.data for shard in old.addressable_shards}
            kept = [np.array(parts[i]) for i in range(len(parts))]
            del parts
            old.delete()
            leaves[number] = self._place(number, staged[number])
            staged[number] = kept

    def place(self, staged: HostLeaves) -> list[jax.Array]:
        """Put the staged leaves on the device, next to the present ones. Runs no program."""
        return [self._place(number, arrays) for number, arrays in enumerate(staged)]

    def _place(self, number: int, arrays: list[np.ndarray]) -> jax.Array:
        """One leaf, assembled from the shards that this host's devices hold."""
        shape, sharding = self._variables[number][1].shape, self._shardings[number]
        parts = [
            jax.device_put(arrays[i], device).block_until_ready()
            for device, i in _shard_numbers(sharding, shape).items()
        ]
        return jax.make_array_from_single_device_arrays(shape, sharding, parts)

    def _shard_bytes(self) -> list[int]:
        """The bytes of every leaf's shard on one device."""
        return [
            math.prod(sharding.shard_shape(variable.shape)) * variable.dtype.itemsize
            for (_, variable), sharding in zip(self._variables, self._shardings, strict=True)
        ]

    def _parts(self) -> list[_Part]:
        return [
            _Part(leaf, layer if _is_stacked(path, self._layout) else None, source)
            for leaf, (path, variable) in enumerate(self._variables)
            for layer, source in enumerate(self._sources(path, variable))
        ]

    def _in_file_order(self, checkpoint: Checkpoint, progress: Progress) -> Iterator[_Part]:
        """The parts to read, in the order of the files; reports progress after each."""
        self.check(checkpoint)
        parts = sorted(self._parts(), key=lambda part: _place(part.source, checkpoint))
        checkpoint.read_ahead(name for part in parts for name, _ in part.source.tensors())
        sizes = [self._variables[part.leaf][1].size for part in parts]
        for part, done in zip(parts, accumulate(sizes), strict=True):
            yield part
            progress("loading weights", done / sum(sizes))

    def _sources(self, path: tuple[Any, ...], variable: Any) -> list[Source]:
        return sources_of(path, self._config, self._layout, variable.dtype == jnp.int8)

    def _stack(self, leaf: int) -> _Stack:
        variable = self._variables[leaf][1]
        return _stack(variable.shape, jnp.dtype(variable.dtype), self._shardings[leaf])

    def _put(
        self, part: _Part, checkpoint: Checkpoint, shape: tuple[int, ...], sharding: NamedSharding
    ) -> jax.Array:
        # Not `make_array_from_callback`: it would hold the shards of all devices at once.
        parts = [
            jax.device_put(array, device).block_until_ready()
            for array, devices in self._read(part, checkpoint, shape, sharding)
            for device in devices
        ]
        return jax.make_array_from_single_device_arrays(shape, sharding, parts)

    def _read(
        self, part: _Part, checkpoint: Checkpoint, shape: tuple[int, ...], sharding: NamedSharding
    ) -> Iterator[tuple[np.ndarray, list[jax.Device]]]:
        """Each shard on this host's devices, with the devices that hold it."""
        dtype = self._variables[part.leaf][1].dtype
        axis = next((i for i, name in enumerate(sharding.spec) if name == TENSOR), None)
        count = tensor_size(self._mesh)
        indices = sharding.addressable_devices_indices_map(shape)
        holders: dict[int, list[jax.Device]] = {}
        for device, number in _shard_numbers(sharding, shape).items():
            holders.setdefault(number, []).append(device)
        for devices in holders.values():
            index = indices[devices[0]]
            if axis is None or index is None:
                shard = Shard(0, 1)
            else:
                shard = Shard((index[axis].start or 0) // (shape[axis] // count), count)
            value = part.source.read(checkpoint, shard)
            yield np.ascontiguousarray(value.astype(dtype)), devices


def _shard_numbers(sharding: NamedSharding, shape: tuple[int, ...]) -> dict[jax.Device, int]:
    """For each of this host's devices, the index of its shard among this host's shards."""
    indices = sharding.addressable_devices_indices_map(shape)
    numbers: dict[str, int] = {}
    return {
        device: numbers.setdefault(str(index), len(numbers)) for device, index in indices.items()
    }


@dataclass(frozen=True, slots=True)
class _Stack:
    """The program that fills a stacked leaf in place, one layer at a time."""

    of_layer: NamedSharding
    zeros: Callable[[], jax.Array]
    put: Callable[[jax.Array, jax.Array, np.int32], jax.Array]


@cache
def _stack(shape: tuple[int, ...], dtype: np.dtype, sharding: NamedSharding) -> _Stack:
    """One for all leaves of a shape, and for all loaders: each would compile its own."""

    def put(leaf: jax.Array, part: jax.Array, layer: jax.Array) -> jax.Array:
        return leaf.at[layer].set(part)

    return _Stack(
        NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:])),
        jax.jit(partial(jnp.zeros, shape, dtype), out_shardings=sharding),
        jax.jit(put, donate_argnums=0, out_shardings=sharding),
    )


def random_leaves(
    config: ModelConfig, layout: DecoderLayout, mesh: Mesh, seed: int = 0
) -> list[jax.Array]:
    """Random leaves from the declarations' initializers, for tests and benchmarks."""
    shardings = leaf_shardings(abstract_decoder(config, layout), mesh)

    def make() -> list[jax.Array]:
        return jax.tree.leaves(nnx.state(Decoder(nnx.Rngs(seed), config, layout)))

    made: list[jax.Array] = jax.jit(make, out_shardings=shardings)()
    return made


def _variables(model: Decoder) -> Iterator[tuple[tuple[Any, ...], Any]]:
    yield from nnx.to_flat_state(nnx.state(model))


def _is_stacked(path: tuple[Any, ...], layout: DecoderLayout) -> bool:
    return path[:2] == ("vision", "layers") or (layout.stacked and path[0] == "layers")


def _sharding(variable: Any, mesh: Mesh | AbstractMesh) -> NamedSharding:
    axes = variable.get_metadata("logical_axes")
    stacked: tuple[str | None, ...] = ("layers",) * (len(variable.shape) - len(axes))
    return NamedSharding(mesh, partition_spec(stacked + axes))


def _place(source: Source, checkpoint: Checkpoint) -> tuple[str, int]:
    """Where a source's first tensor begins; a source without tensors is sorted first."""
    return min((checkpoint.place(name) for name, _ in source.tensors()), default=("", 0))
