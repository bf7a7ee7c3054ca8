"""Low-rank adapters (LoRA, Hu et al., 2021): what they add to the products of a layer's matrices.

The device has slots for adapters of one rank. A row names its slot, and an adapter adds
(x A) B to the product of each matrix that it changes. All slots' A are one matrix, and all slots' B
another: the product with A is made for every slot, the results of other rows' slots become zero,
and the product with B sums what is left. So a program has no branch and no gather per adapter, and
rows without an adapter get zero. Knows neither files nor which adapter is in which slot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from models.config import ModelConfig
from models.decoder.layout import DecoderLayout
from models.sharding import LogicalAxes, partition_spec

_F32 = jnp.dtype(jnp.float32)

# The axis of the slots, from the end: [in, ..., slots, rank] and [slots, rank, out].
A_SLOT_AXIS, B_SLOT_AXIS = -2, -3


class Declared(NamedTuple):
    """The shape of one array of a layer, and a logical axis (or None) for each dimension."""

    shape: tuple[int, ...]
    axes: LogicalAxes

    def without(self, axis: int) -> Declared:
        """The same without one axis, counted from the end."""
        at = len(self.shape) + axis
        return Declared(
            self.shape[:at] + self.shape[at + 1 :], self.axes[:at] + self.axes[at + 1 :]
        )


class AdapterArrays(NamedTuple):
    """One value for each array of a layer's adapters. `_a` is [in, slots, rank], `_b` is
    [slots, rank, out]. Matrices of one input share an array of A: [in, matrices, slots, rank].

    The last five are None where a layer has experts in place of an MLP.
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


SLOT_AXES = AdapterArrays(
    *(A_SLOT_AXIS if name.endswith("_a") else B_SLOT_AXIS for name in AdapterArrays._fields)
)


def declare_adapters(config: ModelConfig, layout: DecoderLayout) -> AdapterArrays:
    """The arrays of one layer. They are split over shards as the matrices that they change."""
    assert layout.adapters is not None
    slots, rank = layout.adapters.num_slots, layout.adapters.rank
    d, heads = config.hidden_size, config.num_heads * config.head_dim
    kv_heads = layout.kv_heads(config) * config.head_dim

    def a(size: int, axis: str | None, *matrices: int) -> Declared:
        return Declared(
            (size, *matrices, slots, rank), (axis, *(None for _ in matrices), None, None)
        )

    def b(size: int, axis: str | None) -> Declared:
        return Declared((slots, rank, size), (None, None, axis))

    attention = (
        a(d, None, 3), b(heads, "q_heads"), b(kv_heads, "kv_heads"), b(kv_heads, "kv_heads"),
        a(heads, "q_heads"), b(d, None),
    )  # fmt: skip
    if config.moe is not None:
        return AdapterArrays(*attention)
    f = config.mlp_size
    mlp = (a(d, None, 2), b(f, "mlp"), b(f, "mlp"), a(f, "mlp"), b(d, None))
    return AdapterArrays(*attention, *mlp)


class LayerAdapters(NamedTuple):
    """The adapters of one layer on one shard. `chosen_TA` marks each token's slot, if it has one.

    The `*_weight_D` are the weights of the norms before attention and before the MLP: the layer's
    matrices have these folded in, an adapter has not. A norm's scale per token is applied later.
    """

    arrays: AdapterArrays
    attention_weight_D: jax.Array
    mlp_weight_D: jax.Array
    chosen_TA: jax.Array

    def heads(self, x_TD: jax.Array, head_dim: int) -> tuple[jax.Array, jax.Array]:
        """What is added to the queries, and to keys with values, head by head, k then v."""
        of = self.arrays
        inner_T3AR = self._inner(x_TD * self.attention_weight_D, of.qkv_a)
        q, k, v = (_outer(inner_T3AR[:, i], b) for i, b in enumerate((of.q_b, of.k_b, of.v_b)))
        by_head = (y.reshape(len(y), -1, head_dim) for y in (k, v))
        return q, jnp.stack(list(by_head), axis=2).reshape(len(q), -1)

    def output(self, x: jax.Array) -> jax.Array:
        """This shard's part of what is added to the projection of attention's output."""
        return _outer(self._inner(x, self.arrays.output_a), self.arrays.output_b)

    def gate_up(self, x_TD: jax.Array) -> jax.Array:
        """What is added to gate and up, side by side."""
        of = self.arrays
        inner_T2AR = self._inner(x_TD * self.mlp_weight_D, of.gate_up_a)
        parts = [_outer(inner_T2AR[:, i], b) for i, b in enumerate((of.gate_b, of.up_b))]
        return jnp.concatenate(parts, axis=-1)

    def down(self, x: jax.Array) -> jax.Array:
        """This shard's part of what is added to the MLP's output."""
        return _outer(self._inner(x, self.arrays.down_a), self.arrays.down_b)

    def _inner(self, x: jax.Array, a: jax.Array | None) -> jax.Array:
        """x A of each token's own slot, zero for the others: [T, ..., slots, rank]."""
        assert a is not None
        y = jnp.tensordot(x.astype(a.dtype), a, axes=1, preferred_element_type=_F32)
        chosen = self.chosen_TA.reshape(len(y), *(1 for _ in range(y.ndim - 3)), -1, 1)
        # Not a product with 0 or 1: an overflow in another row's adapter must not reach this row.
        return jnp.where(chosen, y, 0.0)


def _outer(inner_TAR: jax.Array, b: jax.Array | None) -> jax.Array:
    """The sum over slots and ranks: float32 [T, out]."""
    assert b is not None
    return jnp.tensordot(inner_TAR.astype(b.dtype), b, axes=2, preferred_element_type=_F32)


# Stacked layers: arrays with a leading axis of layers. Listed layers: arrays per layer.
type AdapterLeaves = AdapterArrays | tuple[AdapterArrays, ...]


class StepAdapters(NamedTuple):
    """The adapters in all slots, and which slot each token of the step uses: [T, slots]."""

    leaves: AdapterLeaves
    chosen_TA: jax.Array

    def of(self, layer: int | jax.Array) -> tuple[AdapterArrays, jax.Array]:
        """One layer's arrays, and the tokens' slots."""
        if isinstance(self.leaves, AdapterArrays):
            return jax.tree.map(lambda w: w[layer], self.leaves), self.chosen_TA
        return self.leaves[layer], self.chosen_TA


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
    declared, count = declare_adapters(config, layout), config.num_layers
    if of_slot:
        declared = AdapterArrays(
            *(of and of.without(axis) for of, axis in zip(declared, SLOT_AXES, strict=True))
        )

    def arrays(*leading: int) -> AdapterArrays:
        axes = ("layers",) * len(leading)
        return AdapterArrays(
            *(of and make((*leading, *of.shape), partition_spec(axes + of.axes)) for of in declared)
        )

    return arrays(count) if layout.stacked else tuple(arrays() for _ in range(count))


def put_adapter(leaves: Any, slot: jax.Array, values: Any) -> Any:
    """The arrays of all slots with one slot's values replaced; in place if `leaves` is donated."""
    if not isinstance(leaves, AdapterArrays):
        pairs = zip(leaves, values, strict=True)
        return tuple(put_adapter(leaf, slot, value) for leaf, value in pairs)
    return AdapterArrays(
        *(
            leaf
            if leaf is None
            else jax.lax.dynamic_update_index_in_dim(leaf, value, slot, leaf.ndim + axis)
            for leaf, value, axis in zip(leaves, values, SLOT_AXES, strict=True)
        )
    )
