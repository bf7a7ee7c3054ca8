"""What takes a chip's memory: weights, KV blocks, adapters, and what a step needs besides.

This is arithmetic on shapes. The server uses it for its own devices, `plan` for the devices of a
slice that is not here. It allocates nothing. All bytes are of one chip.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import jax
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from models.config import ModelConfig
from models.decoder.adapters import of_layers
from models.decoder.decoder import Decoder, pool_shapes
from models.decoder.layout import DecoderLayout
from models.decoder.state_pool import abstract_states
from models.weights.loading import leaf_shardings

# Kept free for the working memory of a step, and for its inputs and outputs.
TEMPORARY_BYTES = 512 << 20
# A TPU's scalar memory of 1 MiB holds the block tables of all rows, at 4 bytes per entry. The
# kernel needs a part of it: 196,608 entries compile, 245,760 entries do not.
MAX_TABLE_ENTRIES = 196_608


class SizeError(ValueError):
    """Sizes that a chip cannot hold; the message says by how much, and what to lower."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipMemory:
    """The memory of one chip that is used before any KV. `usable` is the part that may be used.

    `weights` is two sets where the server keeps room to load a version next to the served one.
    """

    usable: int
    weights: int
    sampler: int
    adapters: int = 0
    images: int = 0
    states: int = 0
    temporaries: int = TEMPORARY_BYTES

    @property
    def for_kv(self) -> int:
        """Bytes left for KV; negative where even the rest does not fit."""
        beside = self.sampler + self.adapters + self.images + self.states + self.temporaries
        return self.usable - self.weights - beside


def weight_bytes(model: Decoder, mesh: Mesh | AbstractMesh) -> int:
    """One chip's share of the weights, in bytes."""
    return shard_bytes(jax.tree.leaves(nnx.state(model)), leaf_shardings(model, mesh))


def tower_bytes(model: Decoder, mesh: Mesh | AbstractMesh) -> int:
    """One chip's share of the weights that read images, in bytes; 0 without any."""
    flat = [path[0] == "vision" for path, _ in nnx.to_flat_state(nnx.state(model))]
    pairs = zip(jax.tree.leaves(nnx.state(model)), leaf_shardings(model, mesh), strict=True)
    own = [pair for pair, is_vision in zip(pairs, flat, strict=True) if is_vision]
    return shard_bytes([leaf for leaf, _ in own], [sharding for _, sharding in own])


def tree_bytes(tree: Any, specs: Any, mesh: Mesh | AbstractMesh) -> int:
    """One chip's share of a tree of shapes with a tree of PartitionSpecs over it."""
    is_spec = lambda leaf: isinstance(leaf, PartitionSpec)  # noqa: E731
    flat = [NamedSharding(mesh, spec) for spec in jax.tree.leaves(specs, is_leaf=is_spec)]
    return shard_bytes(jax.tree.leaves(tree), flat)


def shard_bytes(leaves: Iterable[jax.ShapeDtypeStruct], shardings: list[NamedSharding]) -> int:
    """One chip's share of arrays, given as shapes, under their shardings."""
    return sum(
        math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf, sharding in zip(leaves, shardings, strict=True)
    )


def block_bytes(
    config: ModelConfig, layout: DecoderLayout, block_size: int
) -> dict[int | None, int]:
    """One chip's bytes of a block of one layer that has KV, by the layer's window."""
    one_each = (1,) * len(config.windows)
    pools = pool_shapes(config, replace(layout, stacked=False), one_each, block_size)
    sizes = map(_tree_size, map(layout.backend.abstract_pool, pools))
    return {
        window: size // layout.tensor_size
        for window, size in zip(config.kv_windows, sizes, strict=True)
    }


def state_bytes(config: ModelConfig, layout: DecoderLayout, num_slots: int) -> int:
    """One chip's bytes of so many slots, in all layers that have a state."""
    return sum(map(_tree_size, abstract_states(config, layout, num_slots))) // layout.tensor_size


def _tree_size(tree: Any) -> int:
    """The bytes of a tree of shapes, all chips together."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def kind_bytes(
    config: ModelConfig, layout: DecoderLayout, block_size: int
) -> dict[int | None, int]:
    """One chip's bytes of a block in all layers of a kind, by the kind's window."""
    of_layer = block_bytes(config, layout, block_size)
    return {window: of_layer[window] * config.kv_windows.count(window) for window in of_layer}


def check_table(max_num_seqs: int, max_model_len: int, block_size: int) -> None:
    """Raises SizeError where the block tables of a step exceed a TPU's scalar memory."""
    table_size = -(-max_model_len // block_size)
    if max_num_seqs * table_size <= MAX_TABLE_ENTRIES:
        return
    raise SizeError(
        f"block tables of {max_num_seqs} sequences with {table_size} blocks each do not fit into "
        f"the chip's scalar memory, which takes {MAX_TABLE_ENTRIES} entries: lower max_model_len to"
        f" {MAX_TABLE_ENTRIES // max_num_seqs * block_size}, max_num_seqs to "
        f"{MAX_TABLE_ENTRIES // table_size}, or raise block_size"
    )


def adapter_bytes(config: ModelConfig, layout: DecoderLayout, mesh: Mesh | AbstractMesh) -> int:
    """One chip's bytes of all slots, and of one slot's values on their way to it."""
    total = 0
    for of_slot in (False, True):
        pairs = of_layers(
            config,
            layout,
            lambda shape, spec: shard_bytes(
                [jax.ShapeDtypeStruct(shape, layout.dtype)], [NamedSharding(mesh, spec)]
            ),
            of_slot=of_slot,
        )
        total += sum(jax.tree.leaves(pairs))
    return total
