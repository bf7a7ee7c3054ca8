"""A SigLIP tower and Gemma 3's projector: an image's pixels to the rows of its soft tokens.

A bidirectional transformer over patches, whose output is pooled to a smaller square, normed and
projected to the decoder's width (Zhai et al., 2023; transformers, SiglipVisionModel and
Gemma3MultiModalProjector). Knows neither prompts nor files.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from models.config import VisionConfig
from models.parameters import declare, ones, zeros
from models.vision.tower_parts import F32, Linear, attend, is_split, run_layers, stack_layers


class LayerNorm(nnx.Module):
    """A norm over the last axis, to mean zero and deviation one, with weight and bias."""

    def __init__(self, rngs: nnx.Rngs, size: int, eps: float) -> None:
        self.scale = declare(rngs, (size,), (None,), F32, ones)
        self.bias = declare(rngs, (size,), (None,), F32, zeros)
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        centred = x.astype(F32) - jnp.mean(x.astype(F32), axis=-1, keepdims=True)
        variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
        y = centred * jax.lax.rsqrt(variance + self.eps) * self.scale[...] + self.bias[...]
        return y.astype(x.dtype)


class TowerLayer(nnx.Module):
    """Pre-norm attention of every patch over every patch, and an MLP."""

    def __init__(
        self, rngs: nnx.Rngs, config: VisionConfig, dtype: jnp.dtype, *, split: bool
    ) -> None:
        d, f = config.hidden_size, config.mlp_size
        heads, mlp = ("q_heads", "mlp") if split else (None, None)
        self.head_dim = d // config.num_heads
        self.attention_norm = LayerNorm(rngs, d, config.norm_eps)
        self.q = Linear(rngs, (d, d), (None, heads), dtype, has_bias=True)
        self.k = Linear(rngs, (d, d), (None, heads), dtype, has_bias=True)
        self.v = Linear(rngs, (d, d), (None, heads), dtype, has_bias=True)
        self.output = Linear(rngs, (d, d), (heads, None), dtype, has_bias=True)
        self.mlp_norm = LayerNorm(rngs, d, config.norm_eps)
        self.up = Linear(rngs, (d, f), (None, mlp), dtype, has_bias=True)
        self.down = Linear(rngs, (f, d), (mlp, None), dtype, has_bias=True)

    def __call__(self, x_PD: jax.Array) -> jax.Array:
        with jax.named_scope("attention"):
            x_PD = x_PD + self.output(self._attend(self.attention_norm(x_PD)))
        with jax.named_scope("mlp"):
            inner = jax.nn.gelu(self.up(self.mlp_norm(x_PD)), approximate=True)
            return x_PD + self.down(inner)

    def _attend(self, x_PD: jax.Array) -> jax.Array:
        """Attention of this shard's heads: [P, D]."""
        shape = x_PD.shape[0], -1, self.head_dim
        q, k, v = (linear(x_PD).reshape(shape) for linear in (self.q, self.k, self.v))
        return attend(q, k, v, self.head_dim**-0.5, None).astype(x_PD.dtype)


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
        y = jnp.dot(flat, matrix.T, preferred_element_type=F32)
        return y + self.bias[...].astype(F32) + self.places[...].astype(F32)


class Projector(nnx.Module):
    """Pools the patches to fewer, squarely, norms these and projects them to `width`."""

    def __init__(self, rngs: nnx.Rngs, config: VisionConfig, width: int, dtype: jnp.dtype) -> None:
        self.norm = declare(rngs, (config.hidden_size,), (None,), F32, ones)
        self.kernel = declare(rngs, (config.hidden_size, width), (None, None), dtype)
        self.config = config

    def __call__(self, x_PD: jax.Array) -> jax.Array:
        """[tokens, width], float32."""
        config, d = self.config, x_PD.shape[-1]
        side = round(config.num_tokens**0.5)
        each = config.patches_per_side // side
        x = x_PD.astype(F32).reshape(side, each, side, each, d).mean((1, 3)).reshape(-1, d)
        mean_square = jnp.mean(x * x, axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(mean_square + config.norm_eps) * self.norm[...]
        w = self.kernel[...]
        return jnp.dot(x.astype(w.dtype), w, preferred_element_type=F32)


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
        make = partial(TowerLayer, config=config, dtype=dtype, split=is_split(config, tensor_size))
        self.patches = Patches(rngs, config, dtype)
        self.layers: TowerLayer = stack_layers(rngs, config.num_layers, make)
        self.norm = LayerNorm(rngs, config.hidden_size, config.norm_eps)
        self.projector = Projector(rngs, config, width, dtype)
        self.config, self.activation_dtype = config, activation_dtype

    def __call__(self, pixels_HWC: jax.Array, grid: jax.Array | None = None) -> jax.Array:
        """The rows [tokens, width] of an image [height, width, 3] of RGB bytes, on every shard.

        All images have the same `grid`, so nothing depends on it.
        """
        config = self.config
        mean, std = jnp.asarray(config.mean, F32), jnp.asarray(config.std, F32)
        image = (pixels_HWC.astype(F32) / 255 - mean) / std
        x_PD = self.patches(image).astype(self.activation_dtype)
        x_PD = run_layers(self.layers, x_PD)
        return self.projector(self.norm(x_PD)).astype(self.activation_dtype)
