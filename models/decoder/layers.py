"""The layers of a decoder as Flax NNX modules, with the only declaration of each weight.

A declaration has shape, dtype, logical axes and initializer. The abstract tree, the shardings,
random weights and the leaves that a checkpoint fills all follow from the declarations. The modules
compute on one shard of a `shard_map` over the `tensor` axis: they take sizes from the weights, and
sum over shards explicitly. Know neither KV pools nor batches nor files.

The loader folds the weight of a norm before a product into the product's matrix. What remains of
the norm is one scale per token, applied after the product.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from models.config import ModelConfig
from models.cpu_kernels.product import product, suits
from models.decoder.adapters import LayerAdapters
from models.decoder.layout import DecoderLayout
from models.decoder.parallel import Residual
from models.parameters import declare, ones, zeros
from models.sharding import TENSOR, is_split

_F32 = jnp.dtype(jnp.float32)


def int8_noise(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """The initializer of a quantized matrix; `int8_scale` initializes its scales."""
    return jax.random.randint(key, shape, -127, 128, dtype)


def int8_scale(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """The scales that give `int8_noise` the standard deviation of the other matrices."""
    return jnp.full(shape, 0.02 / 73.0, dtype)


def inverse_rms(x_TD: jax.Array, eps: float) -> jax.Array:
    """Each token's factor in root-mean-square norm (Zhang and Sennrich, 2019): [T, 1]."""
    x_TD = x_TD.astype(jnp.float32)
    return jax.lax.rsqrt(jnp.mean(x_TD * x_TD, axis=-1, keepdims=True) + eps)


class Linear(nnx.Module):
    """A matrix [in, out] and an optional bias; if quantized, int8 with one scale per column.

    If the input axis is split, every shard has its own scales: [shards, out].
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        shape: tuple[int, int],
        axes: tuple[str, str],
        layout: DecoderLayout,
        bias: bool,
    ) -> None:
        self.dtype, self.cpu_kernels = layout.dtype, layout.cpu_kernels
        if layout.quantized:
            shards = layout.tensor_size if is_split(axes[0]) else 1
            self.kernel = declare(rngs, shape, axes, jnp.dtype(jnp.int8), int8_noise)
            rows = ("shards",) if is_split(axes[0]) else (None,)
            self.scale = declare(rngs, (shards, shape[1]), (*rows, axes[1]), _F32, int8_scale)
        else:
            self.kernel = declare(rngs, shape, axes, layout.dtype)
            self.scale = None
        self.bias = declare(rngs, shape[1:], axes[1:], layout.dtype, zeros) if bias else None

    def product(self, x: jax.Array) -> jax.Array:
        """The matrix product without bias, summed in float32: [T, out].

        The result type is float32; otherwise XLA for CPU converts the whole weight to float32 at
        every step.
        """
        x, w = x.astype(self.dtype), self.kernel[...]
        if self.cpu_kernels and suits(x, w):
            y = product(x, w)
        else:
            y = jnp.dot(x, w.astype(self.dtype), preferred_element_type=jnp.float32)
        return y if self.scale is None else y * self.scale[...]

    def __call__(
        self, x_TD: jax.Array, norm_T1: jax.Array, added: jax.Array | None = None
    ) -> jax.Array:
        """The product with a normed input, in x's dtype: [T, out].

        `added` is what adapters add to the product, before the norm's scale.
        """
        y = _sum(self.product(x_TD), added) * norm_T1
        return (y if self.bias is None else y + self.bias[...].astype(_F32)).astype(x_TD.dtype)

    def partial(
        self, x: jax.Array, residual: Residual, added: jax.Array | None = None
    ) -> jax.Array:
        """The product with an input split over shards, summed over them; adds the bias once.

        `added` is this shard's part of what adapters add.
        """
        y = residual.reduce(_sum(self.product(x), added).astype(x.dtype))
        return y if self.bias is None else y + self.bias[...].astype(y.dtype)


def _sum(product: jax.Array, added: jax.Array | None) -> jax.Array:
    return product if added is None else product + added


def declare_norm_weight(rngs: nnx.Rngs, size: int) -> nnx.Param[jax.Array]:
    """The weight of a norm that is folded into matrices: adapters need it by itself."""
    return declare(rngs, (size,), (None,), _F32, ones)


class RmsNorm(nnx.Module):
    """A norm over the last axis whose weight is not folded into a matrix."""

    def __init__(self, rngs: nnx.Rngs, size: int, eps: float) -> None:
        self.scale = declare(rngs, (size,), (None,), _F32, ones)
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x.astype(jnp.float32) * inverse_rms(x, self.eps) * self.scale[...]
        return y.astype(x.dtype)


def inverse_head_rms(x: jax.Array, eps: float) -> jax.Array:
    """A norm's factor over the last axis, of a head's size, the same in every lane: x's shape.

    The mean of squares is a product, for bfloat16 to 16 bits. A TPU adds up along the last axis by
    moving lanes, and would first move the heads for that.
    """
    exact = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else jax.lax.Precision.HIGH
    size, x = x.shape[-1], x.astype(jnp.float32)
    mean = jnp.full((size, size), 1 / size, jnp.float32)
    squares = jnp.dot(x * x, mean, precision=exact)
    return jax.lax.rsqrt(squares + eps)


class AttentionProjections(nnx.Module):
    """The matrices around attention: to queries, to keys and values, and back.

    Keys and values are ordered head by head, k then v, as in a TPU's KV pool. With more shards than
    KV heads, the layout's `kv_heads` counts each copy. Where keys are the values, the matrix has
    only keys. With an output gate, the matrix of queries has each head's query and then its gate.
    """

    def __init__(self, rngs: nnx.Rngs, config: ModelConfig, layout: DecoderLayout) -> None:
        d, h, kv_heads = config.hidden_size, config.head_dim, layout.kv_heads(config)
        self.group, self.head_dim = config.num_heads // kv_heads, h
        self.made = 1 if config.keys_as_values else 2
        self.is_gated, heads = config.output_gate, config.num_heads * h
        q_shape, kv_shape = (d, heads * (1 + self.is_gated)), (d, kv_heads * self.made * h)
        self.q = Linear(rngs, q_shape, ("embed", "q_heads"), layout, config.qkv_bias)
        self.kv = Linear(rngs, kv_shape, ("embed", "kv_heads"), layout, config.qkv_bias)
        self.output = Linear(rngs, (heads, d), ("q_heads", "embed"), layout, config.output_bias)

    def heads(
        self, x_TD: jax.Array, norm_T1: jax.Array, adapters: LayerAdapters | None = None
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """Of this shard's KV heads: queries [K, T, G, H] and keys with values [T, K, 2, H].

        The third is what `back` takes for the gate, [T, N x H]; None without one.
        """
        tokens, h = x_TD.shape[0], self.head_dim
        q_added, kv_added = adapters.heads(x_TD, h) if adapters else (None, None)
        q, gate = self.q(x_TD, norm_T1, q_added), None
        if self.is_gated:
            q, gate = jnp.split(q.reshape(tokens, -1, 2 * h), 2, axis=-1)
            gate = gate.reshape(tokens, -1)
        q = q.reshape(tokens, -1, self.group, h).swapaxes(0, 1)
        kv = self.kv(x_TD, norm_T1, kv_added).reshape(tokens, -1, self.made, h)
        return q, jnp.broadcast_to(kv, (tokens, kv.shape[1], 2, h)), gate

    def back(
        self,
        out_KTGH: jax.Array,
        residual: Residual,
        adapters: LayerAdapters | None = None,
        gate: jax.Array | None = None,
    ) -> jax.Array:
        """Projects attention's output and sums over the heads of all shards: [T, D]."""
        flat = out_KTGH.swapaxes(0, 1).reshape(out_KTGH.shape[1], -1)
        if gate is not None:
            flat = (flat * jax.nn.sigmoid(gate.astype(_F32))).astype(flat.dtype)
        return self.output.partial(flat, residual, adapters.output(flat) if adapters else None)


class Mlp(nnx.Module):
    """A gated MLP (Shazeer, 2020). Gate and up share a matrix, side by side within each shard."""

    def __init__(self, rngs: nnx.Rngs, config: ModelConfig, layout: DecoderLayout) -> None:
        d, f = config.hidden_size, config.mlp_size
        self.activation = config.activation
        self.gate_up = Linear(rngs, (d, 2 * f), ("embed", "mlp"), layout, config.mlp_bias)
        self.down = Linear(rngs, (f, d), ("mlp", "embed"), layout, config.mlp_bias)

    def __call__(
        self,
        x_TD: jax.Array,
        norm_T1: jax.Array,
        residual: Residual,
        adapters: LayerAdapters | None = None,
        weight_T1: jax.Array | None = None,
    ) -> jax.Array:
        """`weight_T1` multiplies each token's output."""
        added = adapters.gate_up(x_TD) if adapters else None
        gate, up = jnp.split(self.gate_up(x_TD, norm_T1, added), 2, axis=-1)
        y = gated(self.activation, gate, up)
        if weight_T1 is not None:
            y = (y * weight_T1).astype(y.dtype)
        return self.down.partial(y, residual, adapters.down(y) if adapters else None)


class LayerScale(nnx.Module):
    """The number that multiplies what a layer returns."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.factor = declare(rngs, (1,), (None,), _F32, ones)

    def __call__(self, x_TD: jax.Array) -> jax.Array:
        return (x_TD.astype(jnp.float32) * self.factor[...]).astype(x_TD.dtype)


class Sinks(nnx.Module):
    """A score for each query head that attention counts and that has no value."""

    def __init__(self, rngs: nnx.Rngs, num_heads: int) -> None:
        self.scores = declare(rngs, (num_heads,), ("q_heads",), _F32)


class KvScale(nnx.Module):
    """The units [K, 2] of each KV head's stored keys and values; see `quantization`."""

    def __init__(self, rngs: nnx.Rngs, kv_heads: int) -> None:
        self.units = declare(rngs, (kv_heads, 2), ("kv_heads", None), _F32, ones)


class Embedding(nnx.Module):
    """Token vectors [V, D], split over shards by vocabulary; also the output head."""

    def __init__(self, rngs: nnx.Rngs, vocab: int, hidden: int, layout: DecoderLayout) -> None:
        self.table = declare(rngs, (vocab, hidden), ("vocab", "embed"), layout.dtype)
        self.cpu_kernels = layout.cpu_kernels

    def partial(self, token_ids_T: jax.Array) -> jax.Array:
        """The vectors of the ids that this shard owns, zeros for the others: [T, D]."""
        table = self.table[...]
        local = token_ids_T - jax.lax.axis_index(TENSOR) * table.shape[0]
        owned = (local >= 0) & (local < table.shape[0])
        rows = table[jnp.clip(local, 0, table.shape[0] - 1)]
        return jnp.where(owned[:, None], rows, jnp.zeros_like(rows))

    def logits(self, x: jax.Array) -> jax.Array:
        """This shard's part of the logits, float32 [T, V / shards]."""
        table = self.table[...]
        x = x.astype(table.dtype)
        if self.cpu_kernels and suits(x, table):
            return product(x, table, is_transposed=True)
        return jax.lax.dot_general(
            x, table, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
        )


def gated(activation: str, gate: jax.Array, up: jax.Array) -> jax.Array:
    """The two halves of a gated MLP's inner layer, joined by the model's activation.

    `clamped_silu` is that of gpt-oss (transformers, GptOssExperts).
    """
    if activation == "clamped_silu":
        gate = jnp.minimum(gate, _CLAMP)
        return (jnp.clip(up, -_CLAMP, _CLAMP) + 1) * gate * jax.nn.sigmoid(_STEEPNESS * gate)
    return _ACTIVATIONS[activation](gate) * up


def _gelu_tanh(x: jax.Array) -> jax.Array:
    """GELU in its tanh form (Hendrycks and Gimpel, 2016)."""
    return jax.nn.gelu(x, approximate=True)


_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu_tanh": _gelu_tanh,
}
_CLAMP, _STEEPNESS = 7.0, 1.702
