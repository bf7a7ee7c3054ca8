"""Finds the units of 8-bit keys and values by one run over sample tokens in full width.

The unit of a layer and KV head follows from the largest magnitude in that run, with some headroom
(`quantization`). A fixed seed draws the sample from the vocabulary, so the same weights always get
the same units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from models.attention.base import Ragged, StateSlots
from models.attention.xla import KVBlocks, XlaAttention
from models.config import RECURRENT, ModelConfig
from models.decoder.decoder import Decoder, KVPools, pool_shapes
from models.decoder.layout import DecoderLayout
from models.decoder.quantization import kv_scale
from models.decoder.state_pool import abstract_states
from models.sharding import TENSOR
from models.weights.loading import abstract_decoder, is_kv_unit, leaf_shardings

_NUM_TOKENS = 256
_BLOCK_SIZE = 16


def calibrate(model: Decoder, leaves: list[jax.Array], mesh: Mesh) -> list[jax.Array]:
    """The leaves with measured units of keys and values, for one use: see `Calibration`."""
    return Calibration(model, mesh)(leaves)


class Calibration:
    """Finds the units of one model's keys and values for any weights; compiles once."""

    def __init__(self, model: Decoder, mesh: Mesh) -> None:
        self._model, self._mesh = model, mesh
        self._is_unit = is_kv_unit(model)
        layout = model.layout
        wide = replace(layout, kv_dtype=layout.activation_dtype, backend=XlaAttention())
        self._measure = _measurement(abstract_decoder(model.config, wide), mesh)

    def __call__(self, leaves: list[jax.Array]) -> list[jax.Array]:
        """The leaves with measured units; unchanged if the layout keeps no units."""
        layout = self._model.layout
        if not layout.scales_kv:
            return leaves
        kept = [leaf for leaf, unit in zip(leaves, self._is_unit, strict=True) if not unit]
        units = [kv_scale(np.asarray(each), layout.kv_dtype) for each in self._measure(kept)]
        values = iter(units if layout.stacked else [units_LK2[0] for units_LK2 in units])
        shardings = leaf_shardings(self._model, self._mesh)
        return [
            jax.device_put(next(values), sharding) if unit else leaf
            for leaf, unit, sharding in zip(leaves, self._is_unit, shardings, strict=True)
        ]


def _measurement(model: Decoder, mesh: Mesh) -> Callable[[list[jax.Array]], list[jax.Array]]:
    """Compiles the search for the largest keys and values per KV head.

    Float32 [L, K, 2] for each of the layout's stacks that have any.
    """
    graphdef, state = nnx.split(model)
    treedef = jax.tree.structure(state)
    tokens = np.random.default_rng(0).integers(0, model.config.vocab_size, _NUM_TOKENS)

    def run(leaves: list[jax.Array], tokens: jax.Array) -> list[jax.Array]:
        decoder: Decoder = nnx.merge(graphdef, jax.tree.unflatten(treedef, leaves))
        kv, states = _empty_pools(model.config, model.layout)
        ragged = _one_prompt(len(model.config.windows))
        pools = decoder(tokens, (*kv, *states), ragged, row_tokens=None)[1]
        return _largest(model, pools[: len(kv)])

    specs = [sharding.spec for sharding in leaf_shardings(model, mesh)]
    mapped = jax.shard_map(
        run,
        mesh=mesh,
        in_specs=(specs, PartitionSpec()),
        out_specs=PartitionSpec(None, TENSOR),
        check_vma=False,
    )
    jitted = jax.jit(mapped, out_shardings=NamedSharding(mesh, PartitionSpec()))
    return lambda leaves: jitted(leaves, tokens.astype(np.int32))


def _empty_pools(config: ModelConfig, layout: DecoderLayout) -> tuple[KVPools, Any]:
    """One shard's pools, with blocks for the sample, and a slot for its state."""
    blocks = (_NUM_TOKENS // _BLOCK_SIZE + 1,) * len(config.windows)

    def local(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        shape = (leaf.shape[0], leaf.shape[1] // layout.tensor_size, *leaf.shape[2:])
        return jnp.zeros(shape, leaf.dtype)

    shapes = pool_shapes(config, layout, blocks, _BLOCK_SIZE)
    kv = tuple(jax.tree.map(local, layout.backend.abstract_pool(shape)) for shape in shapes)
    return kv, jax.tree.map(local, abstract_states(config, layout, num_slots=2))


def _one_prompt(num_kinds: int) -> Ragged:
    table = 1 + jnp.arange(_NUM_TOKENS // _BLOCK_SIZE, dtype=jnp.int32)
    none = jnp.zeros(1, jnp.int32)
    return Ragged(
        positions_T=jnp.arange(_NUM_TOKENS, dtype=jnp.int32),
        row_T=jnp.zeros(_NUM_TOKENS, jnp.int32),
        is_padding_T=jnp.zeros(_NUM_TOKENS, jnp.bool_),
        block_tables_KSB=jnp.broadcast_to(table, (num_kinds, 1, table.size)),
        seq_lens_S=jnp.full(1, _NUM_TOKENS, jnp.int32),
        query_start_S1=jnp.array([0, _NUM_TOKENS], jnp.int32),
        num_decodes=jnp.int32(0),
        num_rows=jnp.int32(1),
        slots=StateSlots(none, none, none + 1, none),
    )


def _largest(model: Decoder, pools: KVPools) -> list[jax.Array]:
    """The largest keys and values per KV head of this shard: [L, K, 2] for each stack with KV."""
    by_layer = _largest_by_layer(model, pools)
    stacks = model.layout.stacks(model.config)
    found = [[by_layer[layer] for layer in layers if layer in by_layer] for layers in stacks]
    return [jnp.stack(of_stack) for of_stack in found if of_stack]


def _largest_by_layer(model: Decoder, pools: KVPools) -> dict[int, jax.Array]:
    """[K, 2] for each layer that has keys and values."""
    config = model.config
    windows = enumerate(config.layer_windows)
    layers = [layer for layer, window in windows if window != RECURRENT]
    if not model.layout.stacked:
        return {i: _of_blocks(pool, 1)[0] for i, pool in zip(layers, pools, strict=True)}
    counts = [config.layer_windows.count(window) for window in config.windows]
    by_kind = {
        window: iter(_of_blocks(pool, count))
        for window, pool, count in zip(config.windows, pools, counts, strict=True)
    }
    return {layer: next(by_kind[config.layer_windows[layer]]) for layer in layers}


def _of_blocks(pool: KVBlocks, num_layers: int) -> jax.Array:
    """[layers, K, 2]."""

    def largest(leaf: Any) -> jax.Array:
        split = jnp.abs(leaf).reshape(num_layers, -1, *leaf.shape[1:])
        return jnp.max(split, axis=(1, 3, 4)).astype(jnp.float32)

    return jnp.stack([largest(pool.k), largest(pool.v)], axis=-1)
