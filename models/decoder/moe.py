"""A mixture of experts (Shazeer et al., 2017) in place of the MLP, or beside it.

The shards split the experts. With few tokens, every local expert runs on all tokens, with weight
zero for tokens of other experts. A small batch reads nearly every expert anyway, and this form
needs no sorting. With many tokens, the tokens are sorted by expert and run as grouped products. A
stacked model passes the experts of all layers of its stack and the layer's index, because a grouped
product over a slice of the stack would copy the slice.
"""

from __future__ import annotations

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

_F32 = jnp.dtype(jnp.float32)


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

    def grouped(
        self,
        x_RD: jax.Array,
        norm_R1: jax.Array,
        expert_R: jax.Array,
        sizes_E: jax.Array,
        layer: Layer,
    ) -> jax.Array:
        """Rows sorted by local expert, `sizes_E` per expert: float32 [R, D]; later rows: junk."""
        y_RF = self._ragged_dot(x_RD, self.gate_up, self.gate_up_scale, sizes_E, layer) * norm_R1
        if self.gate_up_bias is not None:
            y_RF = y_RF + _slice(self.gate_up_bias[...], layer, 2)[expert_R].astype(_F32)
        y_RF = self._gated(y_RF, x_RD.dtype)
        out_RD = self._ragged_dot(y_RF, self.down, self.down_scale, sizes_E, layer)
        if self.down_bias is not None:
            out_RD = out_RD + _slice(self.down_bias[...], layer, 2)[expert_R].astype(_F32)
        return out_RD

    def _gated(self, y: jax.Array, dtype: jnp.dtype) -> jax.Array:
        gate, up = jnp.split(y.astype(dtype), 2, axis=-1)
        return gated(self.activation, gate, up)

    def _of(self, kernel: nnx.Param[jax.Array], layer: Layer) -> jax.Array:
        return _slice(kernel[...], layer, 3).astype(self.dtype)

    def _ragged_dot(
        self,
        x_RD: jax.Array,
        kernel: nnx.Param[jax.Array],
        scale: nnx.Param[jax.Array] | None,
        sizes_E: jax.Array,
        layer: Layer,
    ) -> jax.Array:
        x_RD = x_RD.astype(self.dtype)
        w = kernel[...]
        if scale is not None:
            # A grouped product does not accept int8, so this layer's experts are widened first.
            w = (_slice(w, layer, 3) * _slice(scale[...], layer, 2)[:, None]).astype(self.dtype)
        elif w.ndim == 4:
            assert layer is not None
            sizes_E = _place(sizes_E, layer, w.shape[0])
            w = w.reshape(-1, *w.shape[2:])
        return jax.lax.ragged_dot(x_RD, w, sizes_E, preferred_element_type=_F32)


type Layer = jax.Array | int | None


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
        """Pairs of token and expert, sorted by expert; pairs of other shards are last."""
        num_experts, per_token = self.experts.num_local(), self.moe.num_experts_per_token
        is_own = (local_Tk >= 0) & (local_Tk < num_experts)
        expert_R = jnp.where(is_own, local_Tk, num_experts).reshape(-1)
        order_R = jnp.argsort(expert_R, stable=True)
        token_R = order_R // per_token
        sizes_E = jnp.bincount(expert_R, length=num_experts + 1)[:num_experts].astype(jnp.int32)
        sorted_R = jnp.minimum(expert_R[order_R], num_experts - 1)
        y_RD = self.experts.grouped(x_TD[token_R], norm_T1[token_R], sorted_R, sizes_E, layer)
        gate_R = jnp.where(is_own, weight_Tk, 0.0).reshape(-1)[order_R]
        # Rows of other shards are junk and may hold NaN, which a weight of zero does not remove.
        y_RD = jnp.where(gate_R[:, None] > 0, y_RD * gate_R[:, None], 0.0)
        return jnp.zeros(x_TD.shape, _F32).at[token_R].add(y_RD)


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


def _place(sizes_E: jax.Array, layer: jax.Array | int, num_layers: int) -> jax.Array:
    """The group sizes of all layers' experts: zero except in this layer."""
    empty = jnp.zeros((num_layers, sizes_E.shape[0]), sizes_E.dtype)
    return empty.at[layer].set(sizes_E).reshape(-1)
