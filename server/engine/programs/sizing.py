"""How many KV blocks a chip's memory leaves room for.

Arithmetic on shapes, shared by the server, for the devices it has, and by `plan`, for those of a
slice that is not there. It allocates nothing. All bytes are of one chip.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from models.config import ModelConfig
from models.decoder.decoder import Decoder, pool_shapes
from models.decoder.layout import DecoderLayout
from models.weights.weights import leaf_shardings

# Kept free for what a step needs while it runs, and for its inputs and outputs.
TEMPORARY_BYTES = 512 << 20
# The block tables of all rows lie in a TPU's scalar memory, 4 bytes an entry of 1 MiB. The kernel
# needs some of it for itself: 196,608 entries compile, 245,760 do not.
MAX_TABLE_ENTRIES = 196_608
# Block 0 takes the writes of padding; with one block more a sequence can begin.
_LEAST_BLOCKS = 2


class SizeError(ValueError):
    """Sizes that the chip cannot hold; the message says by how much and what to lower."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipMemory:
    """What is taken of one chip's memory before any KV. `usable` is what may be used of it.

    `weights` is two sets where a version is to be loaded beside the one that is served.
    """

    usable: int
    weights: int
    sampler: int
    temporaries: int = TEMPORARY_BYTES

    @property
    def for_kv(self) -> int:
        """Bytes that are left for KV; negative where there is not even room for the rest."""
        return self.usable - self.weights - self.sampler - self.temporaries


def weight_bytes(model: Decoder, mesh: Mesh | AbstractMesh) -> int:
    """The weights' share of one chip."""
    return shard_bytes(jax.tree.leaves(nnx.state(model)), leaf_shardings(model, mesh))


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


def layer_block_bytes(config: ModelConfig, layout: DecoderLayout, block_size: int) -> int:
    """A block of one layer: its share of one chip, the mean of all layers."""
    one_each = (1,) * len(config.windows)
    pools = [
        layout.backend.abstract_pool(shape)
        for shape in pool_shapes(config, layout, one_each, block_size)
    ]
    total = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(pools))
    return int(total) // layout.tensor_size // config.num_layers


def count_blocks(kv_bytes: int, bytes_of_block: int, num_layers: int) -> int:
    """Blocks of single layers in so many bytes, all layers together.

    Raises SizeError where there are too few to serve anything.
    """
    num_blocks = kv_bytes // bytes_of_block
    least = _LEAST_BLOCKS * num_layers
    if num_blocks < least:
        missing = least * bytes_of_block - kv_bytes
        raise SizeError(
            f"weights and working memory leave no room for KV: {missing / 2**30:.2f} GiB a chip are"
            " missing; use more chips (tensor_parallel_size), weight_dtype int8 or kv_dtype fp8"
        )
    return num_blocks


def check_table(max_num_seqs: int, max_model_len: int, block_size: int) -> None:
    """SizeError where the block tables of a step exceed a TPU's scalar memory."""
    table_size = -(-max_model_len // block_size)
    if max_num_seqs * table_size <= MAX_TABLE_ENTRIES:
        return
    raise SizeError(
        f"block tables of {max_num_seqs} sequences with {table_size} blocks each do not fit into "
        f"the chip's scalar memory, which takes {MAX_TABLE_ENTRIES} entries: lower max_model_len to"
        f" {MAX_TABLE_ENTRIES // max_num_seqs * block_size}, max_num_seqs to "
        f"{MAX_TABLE_ENTRIES // table_size}, or raise block_size"
    )
