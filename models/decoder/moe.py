"""A mixture of experts (Shazeer et al., 2017) in place of the MLP, or beside it.

The shards split the experts. With few tokens, every local expert runs on all tokens, with weight
zero for tokens of other experts. A small batch reads nearly every expert anyway, and this form
needs no sorting. With many tokens, the tokens are sorted by expert and run as grouped products. A
stacked model passes the experts of all layers of its stack and the layer's index, because a grouped
product over a slice of the stack would copy the slice. A shard makes room for about its share of
the pairs of tokens and experts, and goes round again where it has more.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from models.config import ModelConfig
from models.decoder.layers import Mlp, RmsNorm, gated, int8_noise, int8_scale
from models.decoder.layout import DecoderLayout
from models.decoder.parallel import Residual
from models.parameters import declare, zeros
from models.sharding import TENSOR

# Up to this many tokens, the dense form costs no more than reading the experts.
DENSE_TOKENS = 256
# From so many tokens on, where a scan's body has several layers, XLA for TPU copies the stack of
# all layers' experts for a product that is no batch over experts (seen with libtpu 0.0.50.1).
_COPIED_TOKENS = 128
# A grouped product takes the mean number of a shard's rows times this, in whole tiles of rows.
# Where a shard has more, it goes round once more.
_MARGIN, _TILE = 1.25, 256

_F32 = jnp.dtype(jnp.float32)


type Layer = jax.Array | int | None


class Pairs(NamedTuple):
    """Pairs of a token and a local expert, sorted by expert. `sizes_E`: how many each expert has.

    Pairs of other shards are last, and name no token: `token_R` is the number of tokens. `norm_R`
    is the token's scale from the norm before, `weight_R` the expert's weight for the token.
    """

    expert_R: jax.Array
    token_R: jax.Array
    weight_R: jax.Array
    norm_R: jax.Array
    sizes_E: jax.Array

    def padded(self, num_rows: int, num_tokens: int) -> Pairs:
        """With so many more rows that name no token."""

        def pad(x: jax.Array, value: int) -> jax.Array:
            return jnp.pad(x, (0, num_rows), constant_values=value)

        return self._replace(
            expert_R=pad(self.expert_R, self.sizes_E.size),
            token_R=pad(self.token_R, num_tokens),
            weight_R=pad(self.weight_R, 0),
            norm_R=pad(self.norm_R, 0),
        )

    def part(self, start: jax.Array | int, num_rows: int) -> Pairs:
        """The rows from `start` on."""

        def cut(x: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(x, start, num_rows)

        ends_E = jnp.clip(jnp.cumsum(self.sizes_E) - start, 0, num_rows)
        return Pairs(
            expert_R=cut(self.expert_R),
            token_R=cut(self.token_R),
            weight_R=cut(self.weight_R),
            norm_R=cut(self.norm_R),
            sizes_E=jnp.diff(ends_E, prepend=0),
        )


def sort_pairs(
    local_Tk: jax.Array, weight_Tk: jax.Array, norm_T1: jax.Array, num_experts: int
) -> Pairs:
    """The pairs of all tokens with their experts, of which this shard has the first numbers."""
    num_tokens = local_Tk.shape[0]
    is_own = (local_Tk >= 0) & (local_Tk < num_experts)
    expert_Tk = jnp.where(is_own, local_Tk, num_experts)
    token_Tk = jnp.where(is_own, jnp.arange(num_tokens)[:, None], num_tokens)
    columns = expert_Tk, token_Tk, weight_Tk, jnp.broadcast_to(norm_T1, local_Tk.shape)
    expert_R, token_R, weight_R, norm_R = jax.lax.sort([x.reshape(-1) for x in columns], num_keys=1)
    sizes_E = jnp.sum(expert_Tk.reshape(-1, 1) == jnp.arange(num_experts), axis=0, dtype=jnp.int32)
    return Pairs(expert_R, token_R, weight_R, norm_R, sizes_E)


class Experts(nnx.Module):
    """All experts of a layer: [E, D, 2F] and [E, F, D]; stacked, with a leading axis of layers."""

    def __init__(self, rngs: nnx.Rngs, config: ModelConfig, layout: DecoderLayout) -> None:
        moe = config.moe
        assert moe is not None
        e, d, f = moe.num_experts, config.hidden_size, moe.expert_size
        self.dtype, self.activation = layout.dtype, config.activation
        self.is_one_of_several = layout.stacked and len(config.pattern) > 1
        kernel_dtype = jnp.dtype(jnp.int8) if layout.quantized else layout.dtype
        init = (int8_noise,) if layout.quantized else ()
        axes = ("experts", None, None)
        self.gate_up = declare(rngs, (e, d, 2 * f), axes, kernel_dtype, *init)
        self.down = declare(rngs, (e, f, d), axes, kernel_dtype, *init)

        def scale(columns: int) -> nnx.Param[jax.Array] | None:
            if not layout.quantized:
                return None
            return declare(rngs, (e, columns), axes[:2], _F32, int8_scale)

        def bias(columns: int) -> nnx.Param[jax.Array] | None:
            if not moe.biases:
                return None
            return declare(rngs, (e, columns), axes[:2], layout.dtype, zeros)

        self.gate_up_scale, self.down_scale = scale(2 * f), scale(d)
        self.gate_up_bias, self.down_bias = bias(2 * f), bias(d)

    def num_local(self) -> int:
        """The number of experts on this shard."""
        return int(self.gate_up.shape[-3])

    def dense(
        self, x_TD: jax.Array, norm_T1: jax.Array, gate_TE: jax.Array, layer: Layer
    ) -> jax.Array:
        """Every local expert on every token, weighted by `gate_TE`: float32 [T, D]."""
        up, down = self._of(self.gate_up, layer), self._of(self.down, layer)
        y_ETF = self._up(x_TD.astype(self.dtype), up)
        if self.gate_up_scale is not None:
            y_ETF = y_ETF * _slice(self.gate_up_scale[...], layer, 2)[:, None]
        y_ETF = y_ETF * norm_T1
        if self.gate_up_bias is not None:
            y_ETF = y_ETF + _slice(self.gate_up_bias[...], layer, 2)[:, None].astype(_F32)
        y_ETF = self._gated(y_ETF, x_TD.dtype) * gate_TE.T[..., None].astype(x_TD.dtype)
        out_TD = self._down(y_ETF.astype(self.dtype), down, layer)
        if self.down_bias is not None:
            out_TD = out_TD + gate_TE @ _slice(self.down_bias[...], layer, 2).astype(_F32)
        return out_TD

    def _down(self, y_ETF: jax.Array, down: jax.Array, layer: Layer) -> jax.Array:
        """The sum over experts of their products with the second matrix."""
        if self.down_scale is None:
            return jnp.einsum("etf,efd->td", y_ETF, down, preferred_element_type=_F32)
        out = jnp.einsum("etf,efd->etd", y_ETF, down, preferred_element_type=_F32)
        return jnp.sum(out * _slice(self.down_scale[...], layer, 2)[:, None], axis=0)

    def _up(self, x_TD: jax.Array, up_EDF: jax.Array) -> jax.Array:
        if not self.is_one_of_several or x_TD.shape[0] < _COPIED_TOKENS:
            return jnp.einsum("td,edf->etf", x_TD, up_EDF, preferred_element_type=_F32)
        x_ETD = jnp.broadcast_to(x_TD, (up_EDF.shape[0], *x_TD.shape))
        return jnp.einsum("etd,edf->etf", x_ETD, up_EDF, preferred_element_type=_F32)

    def grouped(self, x_RD: jax.Array, pairs: Pairs, layer: Layer) -> jax.Array:
        """The rows' outputs times their weights, float32 [R, D]. Rows that name no token: junk."""
        y_RF = self._ragged_dot(x_RD, self.gate_up, pairs, layer) * pairs.norm_R[:, None]
        y_RF = _scaled(y_RF, self.gate_up_scale, pairs, layer)
        if self.gate_up_bias is not None:
            y_RF = y_RF + _of_rows(self.gate_up_bias, pairs, layer)
        gate, up = jnp.split(y_RF, 2, axis=-1)
        y_RF = gated(self.activation, gate, up) * pairs.weight_R[:, None]
        out_RD = self._ragged_dot(y_RF, self.down, pairs, layer)
        out_RD = _scaled(out_RD, self.down_scale, pairs, layer)
        if self.down_bias is None:
            return out_RD
        return out_RD + _of_rows(self.down_bias, pairs, layer) * pairs.weight_R[:, None]

    def _gated(self, y: jax.Array, dtype: jnp.dtype) -> jax.Array:
        gate, up = jnp.split(y.astype(dtype), 2, axis=-1)
        return gated(self.activation, gate, up)

    def _of(self, kernel: nnx.Param[jax.Array], layer: Layer) -> jax.Array:
        return _slice(kernel[...], layer, 3).astype(self.dtype)

    def _ragged_dot(
        self, x: jax.Array, kernel: nnx.Param[jax.Array], pairs: Pairs, layer: Layer
    ) -> jax.Array:
        """The product of each row with its expert's matrix, without scales: float32 [R, out].

        int8 matrices go in as they are: libtpu's kernel widens a tile in VMEM.
        """
        w, sizes_E = kernel[...], pairs.sizes_E
        if w.ndim == 4:
            assert layer is not None
            sizes_E = _place(sizes_E, layer, w.shape[0])
            w = w.reshape(-1, *w.shape[2:])
        return jax.lax.ragged_dot(x.astype(self.dtype), w, sizes_E, preferred_element_type=_F32)


class Moe(nnx.Module):
    """Router and experts. A token's output is the weighted sum over its best experts."""

    def __init__(self, rngs: nnx.Rngs, config: ModelConfig, layout: DecoderLayout) -> None:
        assert config.moe is not None
        self.moe = config.moe
        shape = (config.hidden_size, config.moe.num_experts)
        self.router = declare(rngs, shape, ("embed", None), layout.dtype)
        self.router_bias = (
            declare(rngs, shape[1:], (None,), layout.dtype, zeros) if config.moe.biases else None
        )
        self.experts = Experts(rngs, config, layout)
        self.shared = SharedExpert(rngs, config, layout) if config.moe.shared else None

    def __call__(
        self, x_TD: jax.Array, norm_T1: jax.Array, residual: Residual, layer: Layer
    ) -> jax.Array:
        weight_Tk, expert_Tk = self._route(x_TD, norm_T1)
        first = jax.lax.axis_index(TENSOR) * self.experts.num_local()
        local_Tk = expert_Tk - first
        run = self._dense if x_TD.shape[0] <= DENSE_TOKENS else self._grouped
        out = run(x_TD, norm_T1, weight_Tk, local_Tk, layer)
        out = residual.reduce(out.astype(x_TD.dtype))
        return out if self.shared is None else out + self.shared(x_TD, norm_T1, residual)

    def _route(self, x_TD: jax.Array, norm_T1: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Weights and ids of each token's experts: [T, k] each."""
        router = self.router[...]
        logits = jnp.dot(x_TD.astype(router.dtype), router, preferred_element_type=_F32) * norm_T1
        if self.router_bias is not None:
            logits = logits + self.router_bias[...].astype(_F32)
        weight_Tk, expert_Tk = jax.lax.top_k(
            jax.nn.softmax(logits, axis=-1), self.moe.num_experts_per_token
        )
        if self.moe.renormalize:
            weight_Tk = weight_Tk / jnp.sum(weight_Tk, axis=-1, keepdims=True)
        return weight_Tk, expert_Tk

    def _dense(
        self,
        x_TD: jax.Array,
        norm_T1: jax.Array,
        weight_Tk: jax.Array,
        local_Tk: jax.Array,
        layer: Layer,
    ) -> jax.Array:
        own = local_Tk[..., None] == jnp.arange(self.experts.num_local())
        gate_TE = jnp.sum(jnp.where(own, weight_Tk[..., None], 0.0), axis=1)
        return self.experts.dense(x_TD, norm_T1, gate_TE, layer)

    def _grouped(
        self,
        x_TD: jax.Array,
        norm_T1: jax.Array,
        weight_Tk: jax.Array,
        local_Tk: jax.Array,
        layer: Layer,
    ) -> jax.Array:
        """As many pairs at a time as a shard has in the mean, and a margin: mostly all at once."""
        weight_T1 = jnp.sum(weight_Tk, axis=-1, keepdims=True)
        pairs = sort_pairs(local_Tk, weight_Tk / weight_T1, norm_T1, self.experts.num_local())
        num_tokens, rows = x_TD.shape[0], self._rows_at_once(local_Tk.size)
        pairs = pairs.padded(-local_Tk.size % rows, num_tokens)

        def add(start: jax.Array | int, out_TD: jax.Array) -> jax.Array:
            part = pairs.part(start, rows)
            x_RD = x_TD[jnp.minimum(part.token_R, num_tokens - 1)]
            # Rows that name no token are dropped: what a grouped product gives for them is junk.
            return out_TD.at[part.token_R].add(self.experts.grouped(x_RD, part, layer), mode="drop")

        out_TD = jnp.zeros(x_TD.shape, _F32)
        if rows == local_Tk.size:
            return add(0, out_TD) * weight_T1
        total = jnp.sum(pairs.sizes_E)
        _, out_TD = jax.lax.while_loop(
            lambda carry: carry[0] < total,
            lambda carry: (carry[0] + rows, add(*carry)),
            (jnp.int32(0), out_TD),
        )
        # Last, so that there is a product here: with one, a TPU converts the sum in a fourth of
        # the time.
        return out_TD * weight_T1

    def _rows_at_once(self, num_pairs: int) -> int:
        share = num_pairs * self.experts.num_local() / self.moe.num_experts
        return min(num_pairs, math.ceil(_MARGIN * share / _TILE) * _TILE)


class SharedExpert(nnx.Module):
    """An MLP for every token beside the experts; a gate weighs its output."""

    def __init__(self, rngs: nnx.Rngs, config: ModelConfig, layout: DecoderLayout) -> None:
        self.dense = Mlp(rngs, config, layout)
        self.gate = declare(rngs, (config.hidden_size, 1), ("embed", None), layout.dtype)

    def __call__(self, x_TD: jax.Array, norm_T1: jax.Array, residual: Residual) -> jax.Array:
        gate = self.gate[...]
        logit_T1 = jnp.dot(x_TD.astype(gate.dtype), gate, preferred_element_type=_F32) * norm_T1
        return self.dense(x_TD, norm_T1, residual, weight_T1=jax.nn.sigmoid(logit_T1))


class MlpAndMoe(nnx.Module):
    """An MLP and a mixture of experts side by side, their outputs normed and then added up."""

    def __init__(self, rngs: nnx.Rngs, config: ModelConfig, layout: DecoderLayout) -> None:
        d, eps = config.hidden_size, config.rms_norm_eps
        self.dense, self.moe = Mlp(rngs, config, layout), Moe(rngs, config, layout)
        self.dense_norm, self.moe_norm = RmsNorm(rngs, d, eps), RmsNorm(rngs, d, eps)

    def __call__(
        self, x_TD: jax.Array, norm_T1: jax.Array, residual: Residual, layer: Layer
    ) -> jax.Array:
        dense = self.dense_norm(self.dense(x_TD, norm_T1, residual))
        return dense + self.moe_norm(self.moe(x_TD, norm_T1, residual, layer))


def _slice(w: jax.Array, layer: Layer, ndim: int) -> jax.Array:
    """One layer of a stack; an unstacked layer unchanged."""
    return w if w.ndim == ndim else w[layer]


def _of_rows(table: nnx.Param[jax.Array], pairs: Pairs, layer: Layer) -> jax.Array:
    """The experts' entries for each row: float32 [R, columns].

    A product with ones and zeros, which is exact: a TPU multiplies faster than it looks up rows.
    """
    table_EC = _slice(table[...], layer, 2).astype(_F32)
    chosen_RE = (pairs.expert_R[:, None] == jnp.arange(len(table_EC))).astype(_F32)
    return jnp.dot(chosen_RE, table_EC, precision=jax.lax.Precision.HIGHEST)


def _scaled(
    y: jax.Array, scale: nnx.Param[jax.Array] | None, pairs: Pairs, layer: Layer
) -> jax.Array:
    return y if scale is None else y * _of_rows(scale, pairs, layer)


def _place(sizes_E: jax.Array, layer: jax.Array | int, num_layers: int) -> jax.Array:
    """The group sizes of all layers' experts: zero except in this layer."""
    empty = jnp.zeros((num_layers, sizes_E.shape[0]), sizes_E.dtype)
    return empty.at[layer].set(sizes_E).reshape(-1)
