"""A SigLIP tower and Gemma 3's projector: an image's pixels to the rows of its soft tokens.

A bidirectional transformer over patches, whose output is pooled to a smaller square, normed and
projected to the decoder's width (Zhai et al., 2023; transformers, SiglipVisionModel and
Gemma3MultiModalProjector). Layers are stacked and scanned. It computes on one shard of a
`shard_map` over the `tensor` axis, and sums over shards explicitly. Knows neither prompts nor
files.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from models.config import VisionConfig
from models.parameters import declare, ones, zeros
from models.sharding import TENSOR

_F32 = jnp.dtype(jnp.float32)
# Patches whose scores against all others are in memory at once.
_QUERY_TILE = 256


class LayerNorm(nnx.Module):
    """A norm over the last axis, to mean zero and deviation one, with weight and bias."""

    def __init__(self, rngs: nnx.Rngs, size: int, eps: float) -> None:
        self.scale = declare(rngs, (size,), (None,), _F32, ones)
        self.bias = declare(rngs, (size,), (None,), _F32, zeros)
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        centred = x.astype(_F32) - jnp.mean(x.astype(_F32), axis=-1, keepdims=True)
        variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
        y = centred * jax.lax.rsqrt(variance + self.eps) * self.scale[...] + self.bias[...]
        return y.astype(x.dtype)


class Linear(nnx.Module):
    """A matrix [in, out] with a bias. `axes` are their logical axes, None where not split."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        shape: tuple[int, int],
        axes: tuple[str | None, str | None],
        dtype: jnp.dtype,
    ) -> None:
        self.kernel = declare(rngs, shape, axes, dtype)
        self.bias = declare(rngs, shape[1:], axes[1:], dtype, zeros)
        self.is_partial = axes[0] is not None

    def __call__(self, x: jax.Array) -> jax.Array:
        """In x's dtype; a product whose input is split is summed over the shards."""
        w = self.kernel[...]
        y = jnp.dot(x.astype(w.dtype), w, preferred_element_type=_F32)
        if self.is_partial:
            y = jax.lax.psum(y, TENSOR)
        return (y + self.bias[...].astype(_F32)).astype(x.dtype)


class TowerLayer(nnx.Module):
    """Pre-norm attention of every patch over every patch, and an MLP."""

    def __init__(
        self, rngs: nnx.Rngs, config: VisionConfig, dtype: jnp.dtype, *, is_split: bool
    ) -> None:
        d, f = config.hidden_size, config.mlp_size
        heads, mlp = ("q_heads", "mlp") if is_split else (None, None)
        self.head_dim = d // config.num_heads
        self.attention_norm = LayerNorm(rngs, d, config.norm_eps)
        self.q = Linear(rngs, (d, d), (None, heads), dtype)
        self.k = Linear(rngs, (d, d), (None, heads), dtype)
        self.v = Linear(rngs, (d, d), (None, heads), dtype)
        self.output = Linear(rngs, (d, d), (heads, None), dtype)
        self.mlp_norm = LayerNorm(rngs, d, config.norm_eps)
        self.up = Linear(rngs, (d, f), (None, mlp), dtype)
        self.down = Linear(rngs, (f, d), (mlp, None), dtype)

    def __call__(self, x_PD: jax.Array) -> jax.Array:
        with jax.named_scope("attention"):
            x_PD = x_PD + self.output(self._attend(self.attention_norm(x_PD)))
        with jax.named_scope("mlp"):
            inner = jax.nn.gelu(self.up(self.mlp_norm(x_PD)), approximate=True)
            return x_PD + self.down(inner)

    def _attend(self, x_PD: jax.Array) -> jax.Array:
        """Softmax attention of this shard's heads, one tile of queries at a time: [P, D]."""
        num_patches = x_PD.shape[0]
        shape = num_patches, -1, self.head_dim
        q, k, v = (linear(x_PD).reshape(shape) for linear in (self.q, self.k, self.v))
        tile = _QUERY_TILE if num_patches % _QUERY_TILE == 0 else num_patches

        def attend(q_QNH: jax.Array) -> jax.Array:
            scores = jnp.einsum("qnh,pnh->nqp", q_QNH, k, preferred_element_type=_F32)
            weights = jax.nn.softmax(scores * self.head_dim**-0.5, axis=-1).astype(v.dtype)
            return jnp.einsum("nqp,pnh->qnh", weights, v, preferred_element_type=_F32)

        out = jax.lax.map(attend, q.reshape(-1, tile, *q.shape[1:]))
        return out.reshape(num_patches, -1).astype(x_PD.dtype)


class Patches(nnx.Module):
    """Each patch's product with a matrix, and the vector of its place added."""

    def __init__(self, rngs: nnx.Rngs, config: VisionConfig, dtype: jnp.dtype) -> None:
        d, size = config.hidden_size, config.patch_size
        self.kernel = declare(rngs, (d, 3, size, size), (None,) * 4, dtype)
        self.bias = declare(rngs, (d,), (None,), dtype, zeros)
        self.places = declare(rngs, (config.patches_per_side**2, d), (None, None), dtype)

    def __call__(self, image_HWC: jax.Array) -> jax.Array:
        """[P, D], row by row, from normalized colours [height, width, 3]."""
        kernel = self.kernel[...]
        size = kernel.shape[-1]
        side = image_HWC.shape[0] // size
        cut = image_HWC.reshape(side, size, side, size, -1).transpose(0, 2, 4, 1, 3)
        flat = cut.reshape(side * side, -1).astype(kernel.dtype)
        matrix = kernel.reshape(kernel.shape[0], -1)
        y = jnp.dot(flat, matrix.T, preferred_element_type=_F32)
        return y + self.bias[...].astype(_F32) + self.places[...].astype(_F32)


class Projector(nnx.Module):
    """Pools the patches to fewer, squarely, norms these and projects them to `width`."""

    def __init__(self, rngs: nnx.Rngs, config: VisionConfig, width: int, dtype: jnp.dtype) -> None:
        self.norm = declare(rngs, (config.hidden_size,), (None,), _F32, ones)
        self.kernel = declare(rngs, (config.hidden_size, width), (None, None), dtype)
        self.config = config

    def __call__(self, x_PD: jax.Array) -> jax.Array:
        """[tokens, width], float32."""
        config, d = self.config, x_PD.shape[-1]
        side = round(config.num_tokens**0.5)
        each = config.patches_per_side // side
        x = x_PD.astype(_F32).reshape(side, each, side, each, d).mean((1, 3)).reshape(-1, d)
        mean_square = jnp.mean(x * x, axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(mean_square + config.norm_eps) * self.norm[...]
        w = self.kernel[...]
        return jnp.dot(x.astype(w.dtype), w, preferred_element_type=_F32)


class VisionTower(nnx.Module):
    """Pixels of an image to rows of a decoder of `width`, in matrices of `dtype`.

    Heads and MLP are split over `tensor_size` shards if both divide; else each shard holds all.
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        config: VisionConfig,
        *,
        width: int,
        dtype: jnp.dtype,
        activation_dtype: jnp.dtype,
        tensor_size: int,
    ) -> None:
        is_split = config.num_heads % tensor_size == 0 and config.mlp_size % tensor_size == 0

        @nnx.split_rngs(splits=config.num_layers)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def make(rngs: nnx.Rngs) -> TowerLayer:
            return TowerLayer(rngs, config, dtype, is_split=is_split)

        self.patches = Patches(rngs, config, dtype)
        self.layers: TowerLayer = make(rngs)
        self.norm = LayerNorm(rngs, config.hidden_size, config.norm_eps)
        self.projector = Projector(rngs, config, width, dtype)
        self.config, self.activation_dtype = config, activation_dtype

    def __call__(self, pixels_HWC: jax.Array, grid: jax.Array | None = None) -> jax.Array:
        """The rows [tokens, width] of an image [height, width, 3] of RGB bytes, on every shard.

        All images have the same `grid`, so nothing depends on it.
        """
        config = self.config
        mean, std = jnp.asarray(config.mean, _F32), jnp.asarray(config.std, _F32)
        image = (pixels_HWC.astype(_F32) / 255 - mean) / std
        x_PD = self.patches(image).astype(self.activation_dtype)
        graphdef, weights = nnx.split(self.layers)

        # Indexed inside, because XLA would copy weights that are scanned inputs.
        def body(x_PD: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
            layer = nnx.merge(graphdef, jax.tree.map(lambda w: w[i], weights))
            return layer(x_PD), None

        x_PD, _ = jax.lax.scan(body, x_PD, jnp.arange(config.num_layers))
        return self.projector(self.norm(x_PD)).astype(self.activation_dtype)
