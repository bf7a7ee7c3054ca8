"""Gemma 4's tower: an image's patches, in cells, to the rows of its soft tokens.

A bidirectional transformer over the patches of one image, told apart by vectors and rotations for
both axes. The patches of a cell are averaged to a token's row, which is normed and projected to the
decoder's width (transformers, Gemma4VisionModel and Gemma4MultimodalEmbedder). Layers are stacked
and scanned. It computes on one shard of a `shard_map` over the `tensor` axis, and sums over shards
explicitly. Knows neither prompts nor files.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from models.config import CellVisionConfig
from models.parameters import declare, ones, zeros
from models.sharding import TENSOR

_F32 = jnp.dtype(jnp.float32)
# The most patches whose scores against all others are in memory at once.
_QUERY_TILE = 256
_NEVER = -1e30


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
        self.scale = None if size is None else declare(rngs, (size,), (None,), _F32, ones)
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(_F32)
        y = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        return (y if self.scale is None else y * self.scale[...]).astype(x.dtype)


class Matrix(nnx.Module):
    """A matrix [in, out]. `axes` are their logical axes, None where not split."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        shape: tuple[int, int],
        axes: tuple[str | None, str | None],
        dtype: jnp.dtype,
    ) -> None:
        self.kernel = declare(rngs, shape, axes, dtype)
        self.is_partial = axes[0] is not None

    def __call__(self, x: jax.Array) -> jax.Array:
        """In x's dtype; a product whose input is split is summed over the shards."""
        w = self.kernel[...]
        y = jnp.dot(x.astype(w.dtype), w, preferred_element_type=_F32)
        return (jax.lax.psum(y, TENSOR) if self.is_partial else y).astype(x.dtype)


class CellTowerLayer(nnx.Module):
    """Attention of every patch over every patch and a gated MLP, each normed before and after."""

    def __init__(
        self, rngs: nnx.Rngs, config: CellVisionConfig, dtype: jnp.dtype, *, is_split: bool
    ) -> None:
        d, f, eps = config.hidden_size, config.mlp_size, config.norm_eps
        n = config.num_heads * config.head_dim
        heads, mlp = ("q_heads", "mlp") if is_split else (None, None)
        self.config = config
        self.attention_norm, self.attention_post_norm = Norm(rngs, d, eps), Norm(rngs, d, eps)
        self.q = Matrix(rngs, (d, n), (None, heads), dtype)
        self.k = Matrix(rngs, (d, n), (None, heads), dtype)
        self.v = Matrix(rngs, (d, n), (None, heads), dtype)
        self.output = Matrix(rngs, (n, d), (heads, None), dtype)
        self.q_norm, self.k_norm = (Norm(rngs, config.head_dim, eps) for _ in range(2))
        self.v_norm = Norm(rngs, None, eps)
        self.mlp_norm, self.mlp_post_norm = Norm(rngs, d, eps), Norm(rngs, d, eps)
        self.gate = Matrix(rngs, (d, f), (None, mlp), dtype)
        self.up = Matrix(rngs, (d, f), (None, mlp), dtype)
        self.down = Matrix(rngs, (f, d), (mlp, None), dtype)

    def __call__(self, x_PD: jax.Array, patches: Places) -> jax.Array:
        with jax.named_scope("attention"):
            out = self.output(self._attend(self.attention_norm(x_PD), patches))
            x_PD = x_PD + self.attention_post_norm(out)
        with jax.named_scope("mlp"):
            inner = self.mlp_norm(x_PD)
            gated = jax.nn.gelu(self.gate(inner), approximate=True) * self.up(inner)
            return x_PD + self.mlp_post_norm(self.down(gated))

    def _attend(self, x_PD: jax.Array, patches: Places) -> jax.Array:
        """Softmax attention of this shard's heads, one tile of queries at a time: [P, N H]."""
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
        tile = max(n for n in range(1, _QUERY_TILE + 1) if num_patches % n == 0)

        def attend(q_QNH: jax.Array) -> jax.Array:
            scores = jnp.einsum("qnh,pnh->nqp", q_QNH, k, preferred_element_type=_F32)
            scores = jnp.where(patches.is_real_P, scores, _NEVER)
            weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
            return jnp.einsum("nqp,pnh->qnh", weights, v, preferred_element_type=_F32)

        out = jax.lax.map(attend, q.reshape(-1, tile, *q.shape[1:]))
        return out.reshape(num_patches, -1).astype(x_PD.dtype)


def _rotated(x_PNH: jax.Array, place_P2: jax.Array, theta: float) -> jax.Array:
    """The first half of each head turned by the column, the second by the line."""
    half = x_PNH.shape[-1] // 2
    turns = theta ** -(jnp.arange(0, half, 2, dtype=_F32) / half)
    angle_P2F = place_P2[..., None].astype(_F32) * turns
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
        y = jnp.dot(colours_PC.astype(w.dtype), w, preferred_element_type=_F32)
        column_P, line_P = patches.place_P2.T
        table = self.places[...].astype(_F32)
        return y + table[0, column_P] + table[1, line_P]


class CellProjector(nnx.Module):
    """Averages the patches of each cell, norms the means and projects them to `width`."""

    def __init__(
        self, rngs: nnx.Rngs, config: CellVisionConfig, width: int, dtype: jnp.dtype
    ) -> None:
        d = config.hidden_size
        self.shift = declare(rngs, (d,), (None,), _F32, zeros) if config.standardizes else None
        self.scale = declare(rngs, (d,), (None,), _F32, ones) if config.standardizes else None
        self.norm = Norm(rngs, None, config.norm_eps)
        self.kernel = declare(rngs, (d, width), (None, None), dtype)
        self.config = config

    def __call__(self, x_PD: jax.Array) -> jax.Array:
        """[tokens, width], float32; arbitrary for cells that the image has not."""
        d, w = x_PD.shape[-1], self.kernel[...]
        x = x_PD.astype(_F32).reshape(self.config.num_tokens, -1, d).mean(1) * d**0.5
        if self.shift is not None and self.scale is not None:
            x = (x - self.shift[...]) * self.scale[...]
        # Rounded where transformers rounds.
        x = self.norm(x.astype(x_PD.dtype))
        return jnp.dot(x.astype(w.dtype), w, preferred_element_type=_F32)


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
        is_split = config.num_heads % tensor_size == 0 and config.mlp_size % tensor_size == 0

        @nnx.split_rngs(splits=config.num_layers)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def make(rngs: nnx.Rngs) -> CellTowerLayer:
            return CellTowerLayer(rngs, config, dtype, is_split=is_split)

        self.patches = CellPatches(rngs, config, dtype)
        self.layers: CellTowerLayer = make(rngs)
        self.projector = CellProjector(rngs, config, width, dtype)
        self.config, self.activation_dtype = config, activation_dtype

    def __call__(self, pixels: jax.Array, grid: jax.Array) -> jax.Array:
        """The rows [tokens, width] of an image, on every shard.

        `pixels` are RGB bytes [tokens, patches of a cell, values of a patch], `grid` the image's
        lines and columns of cells.
        """
        config = self.config
        patches = places(grid, config)
        colours_PC = 2 * (pixels.reshape(-1, pixels.shape[-1]).astype(_F32) / 255 - 0.5)
        x_PD = self.patches(colours_PC, patches).astype(self.activation_dtype)
        graphdef, weights = nnx.split(self.layers)

        # Indexed inside, because XLA would copy weights that are scanned inputs.
        def body(x_PD: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
            layer = nnx.merge(graphdef, jax.tree.map(lambda w: w[i], weights))
            return layer(x_PD, patches), None

        x_PD, _ = jax.lax.scan(body, x_PD, jnp.arange(config.num_layers))
        return self.projector(x_PD).astype(self.activation_dtype)
