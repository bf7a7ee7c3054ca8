"""Gemma 4's tower: an image's patches, in cells, to the rows of its soft tokens.

A bidirectional transformer over the patches of one image, told apart by vectors and rotations for
both axes. The patches of a cell are averaged to a token's row, which is normed and projected to the
decoder's width (transformers, Gemma4VisionModel and Gemma4MultimodalEmbedder). Knows neither
prompts nor files.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from models.config import CellVisionConfig
from models.parameters import declare, ones, zeros
from models.vision.tower_parts import F32, Linear, attend, is_split, run_layers, stack_layers


class Places(NamedTuple):
    """Of every patch: its column and line [P, 2], and whether the image has it [P]."""

    place_P2: jax.Array
    is_real_P: jax.Array


def places(grid: jax.Array, config: CellVisionConfig) -> Places:
    """The patches of an image of `grid` [lines, columns] of cells, cell by cell, row by row."""
    side = config.cell_patches
    cell, inner = jnp.divmod(jnp.arange(config.num_tokens * side**2), side**2)
    line, column = jnp.divmod(cell, jnp.maximum(grid[1], 1))
    inner_line, inner_column = jnp.divmod(inner, side)
    place_P2 = jnp.stack([column * side + inner_column, line * side + inner_line], axis=1)
    is_real_P = cell < grid[0] * grid[1]
    return Places(jnp.where(is_real_P[:, None], place_P2, 0), is_real_P)


class Norm(nnx.Module):
    """A norm over the last axis to a mean square of one, with a weight, or without for None."""

    def __init__(self, rngs: nnx.Rngs, size: int | None, eps: float) -> None:
        self.scale = None if size is None else declare(rngs, (size,), (None,), F32, ones)
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(F32)
        y = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        return (y if self.scale is None else y * self.scale[...]).astype(x.dtype)


class CellTowerLayer(nnx.Module):
    """Attention of every patch over every patch and a gated MLP, each normed before and after."""

    def __init__(
        self, rngs: nnx.Rngs, config: CellVisionConfig, dtype: jnp.dtype, *, split: bool
    ) -> None:
        d, f, eps = config.hidden_size, config.mlp_size, config.norm_eps
        n = config.num_heads * config.head_dim
        heads, mlp = ("q_heads", "mlp") if split else (None, None)
        self.config = config
        self.attention_norm, self.attention_post_norm = Norm(rngs, d, eps), Norm(rngs, d, eps)
        self.q = Linear(rngs, (d, n), (None, heads), dtype, has_bias=False)
        self.k = Linear(rngs, (d, n), (None, heads), dtype, has_bias=False)
        self.v = Linear(rngs, (d, n), (None, heads), dtype, has_bias=False)
        self.output = Linear(rngs, (n, d), (heads, None), dtype, has_bias=False)
        self.q_norm, self.k_norm = (Norm(rngs, config.head_dim, eps) for _ in range(2))
        self.v_norm = Norm(rngs, None, eps)
        self.mlp_norm, self.mlp_post_norm = Norm(rngs, d, eps), Norm(rngs, d, eps)
        self.gate = Linear(rngs, (d, f), (None, mlp), dtype, has_bias=False)
        self.up = Linear(rngs, (d, f), (None, mlp), dtype, has_bias=False)
        self.down = Linear(rngs, (f, d), (mlp, None), dtype, has_bias=False)

    def __call__(self, x_PD: jax.Array, patches: Places) -> jax.Array:
        with jax.named_scope("attention"):
            out = self.output(self._attend(self.attention_norm(x_PD), patches))
            x_PD = x_PD + self.attention_post_norm(out)
        with jax.named_scope("mlp"):
            inner = self.mlp_norm(x_PD)
            gated = jax.nn.gelu(self.gate(inner), approximate=True) * self.up(inner)
            return x_PD + self.mlp_post_norm(self.down(gated))

    def _attend(self, x_PD: jax.Array, patches: Places) -> jax.Array:
        """Attention of this shard's heads over the image's patches: [P, N H]."""
        num_patches = x_PD.shape[0]
        q, k, v = (
            norm(linear(x_PD).reshape(num_patches, -1, self.config.head_dim))
            for linear, norm in (
                (self.q, self.q_norm),
                (self.k, self.k_norm),
                (self.v, self.v_norm),
            )
        )
        q, k = (_rotated(each, patches.place_P2, self.config.rope_theta) for each in (q, k))
        return attend(q, k, v, 1.0, patches.is_real_P).astype(x_PD.dtype)


def _rotated(x_PNH: jax.Array, place_P2: jax.Array, theta: float) -> jax.Array:
    """The first half of each head turned by the column, the second by the line."""
    half = x_PNH.shape[-1] // 2
    turns = theta ** -(jnp.arange(0, half, 2, dtype=F32) / half)
    angle_P2F = place_P2[..., None].astype(F32) * turns
    cos, sin = (f(angle_P2F)[:, None].astype(x_PNH.dtype) for f in (jnp.cos, jnp.sin))
    # Pairs lie half of a half apart: [P, N, axis, part of the pair, pair].
    first, second = jnp.moveaxis(x_PNH.reshape(*x_PNH.shape[:2], 2, 2, -1), 3, 0)
    turned = [first * cos - second * sin, second * cos + first * sin]
    return jnp.stack(turned, axis=3).reshape(x_PNH.shape)


class CellPatches(nnx.Module):
    """Each patch's product with a matrix, and the vectors of its column and its line added."""

    def __init__(self, rngs: nnx.Rngs, config: CellVisionConfig, dtype: jnp.dtype) -> None:
        d, num_values = config.hidden_size, 3 * config.patch_size**2
        self.kernel = declare(rngs, (num_values, d), (None, None), dtype)
        self.places = declare(rngs, (2, config.num_places, d), (None,) * 3, dtype)

    def __call__(self, colours_PC: jax.Array, patches: Places) -> jax.Array:
        """[P, D], float32, from colours between -1 and 1."""
        w = self.kernel[...]
        y = jnp.dot(colours_PC.astype(w.dtype), w, preferred_element_type=F32)
        column_P, line_P = patches.place_P2.T
        table = self.places[...].astype(F32)
        return y + table[0, column_P] + table[1, line_P]


class CellProjector(nnx.Module):
    """Averages the patches of each cell, norms the means and projects them to `width`."""

    def __init__(
        self, rngs: nnx.Rngs, config: CellVisionConfig, width: int, dtype: jnp.dtype
    ) -> None:
        d = config.hidden_size
        self.shift = declare(rngs, (d,), (None,), F32, zeros) if config.standardizes else None
        self.scale = declare(rngs, (d,), (None,), F32, ones) if config.standardizes else None
        self.norm = Norm(rngs, None, config.norm_eps)
        self.kernel = declare(rngs, (d, width), (None, None), dtype)
        self.config = config

    def __call__(self, x_PD: jax.Array) -> jax.Array:
        """[tokens, width], float32; arbitrary for cells that the image has not."""
        d, w = x_PD.shape[-1], self.kernel[...]
        x = x_PD.astype(F32).reshape(self.config.num_tokens, -1, d).mean(1) * d**0.5
        if self.shift is not None and self.scale is not None:
            x = (x - self.shift[...]) * self.scale[...]
        # Rounded where transformers rounds.
        x = self.norm(x.astype(x_PD.dtype))
        return jnp.dot(x.astype(w.dtype), w, preferred_element_type=F32)


class CellVisionTower(nnx.Module):
    """Patches of an image to rows of a decoder of `width`, in matrices of `dtype`.

    Heads and MLP are split over `tensor_size` shards if both divide; else each shard holds all.
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        config: CellVisionConfig,
        *,
        width: int,
        dtype: jnp.dtype,
        activation_dtype: jnp.dtype,
        tensor_size: int,
    ) -> None:
        split = is_split(config, tensor_size)
        make = partial(CellTowerLayer, config=config, dtype=dtype, split=split)
        self.patches = CellPatches(rngs, config, dtype)
        self.layers: CellTowerLayer = stack_layers(rngs, config.num_layers, make)
        self.projector = CellProjector(rngs, config, width, dtype)
        self.config, self.activation_dtype = config, activation_dtype

    def __call__(self, pixels: jax.Array, grid: jax.Array) -> jax.Array:
        """The rows [tokens, width] of an image, on every shard.

        `pixels` are RGB bytes [tokens, patches of a cell, values of a patch], `grid` the image's
        lines and columns of cells.
        """
        config = self.config
        patches = places(grid, config)
        colours_PC = 2 * (pixels.reshape(-1, pixels.shape[-1]).astype(F32) / 255 - 0.5)
        x_PD = self.patches(colours_PC, patches).astype(self.activation_dtype)
        x_PD = run_layers(self.layers, x_PD, patches)
        return self.projector(x_PD).astype(self.activation_dtype)
