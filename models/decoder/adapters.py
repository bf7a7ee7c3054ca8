"""Low-rank adapters (LoRA, Hu et al., 2021): what they add to the products of a layer's matrices.

The device has slots for adapters of one rank. A row names its slot, and an adapter adds
(x A) B to the product of each matrix that it changes. All slots' A are one matrix, and all slots' B
another: the product with A is made for every slot, the results of other rows' slots become zero,
and the product with B sums what is left. So a program has no branch and no gather per adapter, and
rows without an adapter get zero. Knows neither files nor which adapter is in which slot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from models.config import ModelConfig
from models.decoder.layout import DecoderLayout
from models.sharding import LogicalAxes, partition_spec

_F32 = jnp.dtype(jnp.float32)


class Declared(NamedTuple):
    """The shape of one array of a layer, and a logical axis (or None) for each dimension."""

    shape: tuple[int, int]
    axes: LogicalAxes


class AdapterArrays(NamedTuple):
    """One value for each array of a layer's adapters. Letters: C the columns of all slots, slot by
    slot, each of the slots' rank.

    `_a` is [in, matrices x C], with the matrices of one input side by side; `_b` is [C, out]. Both
    have two dimensions, because a TPU pads the last two of an array to whole tiles. `v_b` is None
    where keys are the values. The last five are None where a layer has experts.
    """

    qkv_a: Any
    q_b: Any
    k_b: Any
    v_b: Any
    output_a: Any
    output_b: Any
    gate_up_a: Any = None
    gate_b: Any = None
    up_b: Any = None
    down_a: Any = None
    down_b: Any = None


# How many matrices share an array of A; 0 for an array of B.
NUM_MATRICES = AdapterArrays(3, 0, 0, 0, 1, 0, 2, 0, 0, 1, 0)


def declare_adapters(config: ModelConfig, layout: DecoderLayout) -> AdapterArrays:
    """The arrays of one layer of a kind. They are split over shards as the matrices they change."""
    assert layout.adapters is not None
    columns = layout.adapters.num_columns
    d, heads = config.hidden_size, config.num_heads * config.head_dim
    kv_heads = layout.kv_heads(config) * config.head_dim

    def a(size: int, axis: str | None, num_matrices: int = 1) -> Declared:
        return Declared((size, num_matrices * columns), (axis, None))

    def b(size: int, axis: str | None) -> Declared:
        return Declared((columns, size), (None, axis))

    attention = (
        a(d, None, 3), b(heads, "q_heads"), b(kv_heads, "kv_heads"),
        None if config.keys_as_values else b(kv_heads, "kv_heads"),
        a(heads, "q_heads"), b(d, None),
    )  # fmt: skip
    if config.moe is not None:
        return AdapterArrays(*attention)
    f = config.mlp_size
    mlp = (a(d, None, 2), b(f, "mlp"), b(f, "mlp"), a(f, "mlp"), b(d, None))
    return AdapterArrays(*attention, *mlp)


class LayerAdapters(NamedTuple):
    """The adapters of one layer on one shard. `chosen_TC` marks the columns of each token's slot.

    The `*_weight_D` are the weights of the norms before attention and before the MLP: the layer's
    matrices have these folded in, an adapter has not. A norm's scale per token is applied later.
    """

    arrays: AdapterArrays
    attention_weight_D: jax.Array
    mlp_weight_D: jax.Array
    chosen_TC: jax.Array

    def heads(self, x_TD: jax.Array, head_dim: int) -> tuple[jax.Array, jax.Array]:
        """What is added to the queries, and to keys with values, head by head, k then v.

        Where keys are the values, to the queries and to the keys.
        """
        of = self.arrays
        inner = self._inner(x_TD * self.attention_weight_D, of.qkv_a)
        q, k = map(_outer, inner[:2], (of.q_b, of.k_b))
        made = [k] if of.v_b is None else [k, _outer(inner[2], of.v_b)]
        by_head = (y.reshape(len(y), -1, head_dim) for y in made)
        return q, jnp.stack(list(by_head), axis=2).reshape(len(q), -1)

    def output(self, x: jax.Array) -> jax.Array:
        """This shard's part of what is added to the projection of attention's output."""
        (inner_TC,) = self._inner(x, self.arrays.output_a)
        return _outer(inner_TC, self.arrays.output_b)

    def gate_up(self, x_TD: jax.Array) -> jax.Array:
        """What is added to gate and up, side by side."""
        of = self.arrays
        inner = self._inner(x_TD * self.mlp_weight_D, of.gate_up_a)
        return jnp.concatenate(list(map(_outer, inner, (of.gate_b, of.up_b))), axis=-1)

    def down(self, x: jax.Array) -> jax.Array:
        """This shard's part of what is added to the MLP's output."""
        (inner_TC,) = self._inner(x, self.arrays.down_a)
        return _outer(inner_TC, self.arrays.down_b)

    def _inner(self, x: jax.Array, a: jax.Array) -> list[jax.Array]:
        """For each matrix: x A in the columns of each token's own slot, zero in the others."""
        y = jnp.dot(x.astype(a.dtype), a, preferred_element_type=_F32)
        parts = jnp.split(y, y.shape[1] // self.chosen_TC.shape[1], axis=1)
        # Not a product with 0 or 1: an overflow in another row's adapter must not reach this row.
        return [jnp.where(self.chosen_TC, part, 0.0) for part in parts]


def _outer(inner_TC: jax.Array, b: jax.Array) -> jax.Array:
    """The product with B of each token's own slot: float32 [T, out]."""
    return jnp.dot(inner_TC.astype(b.dtype), b, preferred_element_type=_F32)


# One of each of the layout's stacks: stacked layers have a leading axis of layers.
type AdapterLeaves = tuple[AdapterArrays, ...]


class StepAdapters(NamedTuple):
    """The adapters in all slots, and the columns of the slot that each token uses."""

    leaves: AdapterLeaves
    chosen_TC: jax.Array

    def of(self, stack: int, layer: int | jax.Array | None) -> tuple[AdapterArrays, jax.Array]:
        """One layer's arrays, and the tokens' columns. `layer` is its place; None: it is listed."""
        arrays = self.leaves[stack]
        if layer is None:
            return arrays, self.chosen_TC
        return jax.tree.map(lambda w: w[layer], arrays), self.chosen_TC


type OfLayer = tuple[AdapterArrays, jax.Array] | None


def of_layers(
    config: ModelConfig,
    layout: DecoderLayout,
    make: Callable[[tuple[int, ...], PartitionSpec], Any],
    *,
    of_slot: bool = False,
) -> Any:
    """What `make` returns for the shape and split of each array, in the form of `AdapterLeaves`.

    Of all slots, or with `of_slot` of the values of one. () for a layout without slots.
    """
    if layout.adapters is None:
        return ()
    if of_slot:
        layout = replace(layout, adapters=replace(layout.adapters, num_slots=1))

    def arrays(layers: tuple[int, ...]) -> AdapterArrays:
        leading = (len(layers),) if layout.stacked else ()
        axes = ("layers",) * len(leading)
        declared = declare_adapters(config.of_layer(layers[0]), layout)
        return AdapterArrays(
            *(of and make((*leading, *of.shape), partition_spec(axes + of.axes)) for of in declared)
        )

    return tuple(arrays(layers) for layers in layout.stacks(config))


def put_adapter(leaves: Any, slot: jax.Array, values: Any) -> Any:
    """The arrays of all slots with one slot's values replaced; in place if `leaves` is donated."""
    return tuple(
        AdapterArrays(*map(partial(_put, slot), arrays, of_slot, NUM_MATRICES))
        for arrays, of_slot in zip(leaves, values, strict=True)
    )


def _put(slot: jax.Array, leaf: Any, value: Any, num_matrices: int) -> Any:
    if leaf is None:
        return None
    if not num_matrices:
        return jax.lax.dynamic_update_slice_in_dim(leaf, value, slot * value.shape[-2], axis=-2)
    columns, rank = (each.shape[-1] // num_matrices for each in (leaf, value))
    for i, part in enumerate(jnp.split(value, num_matrices, axis=-1)):
        start = i * columns + slot * rank
        leaf = jax.lax.dynamic_update_slice_in_dim(leaf, part, start, axis=-1)
    return leaf
