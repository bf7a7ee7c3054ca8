"""The declared model run densely over whole windows of text, and the loss to descend.

Projections, norms, MLPs and head are the decoder's own; only attention is another: causal over a
window of its own, with no KV pool, so that it can be differentiated. Runs where the tensor axis has
one shard. Knows no optimizer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from models.decoder import Decoder
from models.rope import rope_tables
from models.sharding import DATA, TENSOR

# Queries per tile: less is computed above the diagonal, at more products of smaller matrices.
_TILE = 64
_NEVER = -1e30


def one_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile `function` for a mesh of one device: the model's collectives name a mesh axis."""
    mesh = Mesh(np.asarray(jax.devices()[:1]).reshape(1, 1), (DATA, TENSOR))
    specs = PartitionSpec()
    mapped = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=specs, check_vma=False)
    sharding = NamedSharding(mesh, specs)
    compiled: Callable[..., Any] = jax.jit(mapped, in_shardings=sharding, out_shardings=sharding)
    return compiled


def nats(model: Decoder, tokens_BW: jax.Array) -> jax.Array:
    """The cost of every token but a window's first, given those before it: float32 [B, W - 1]."""
    inputs, targets = tokens_BW[:, :-1], tokens_BW[:, 1:]
    logits = model.logits(_hidden(model, inputs))
    chosen = jnp.take_along_axis(logits, targets.reshape(-1, 1), axis=1)[:, 0]
    return (jax.nn.logsumexp(logits, axis=1) - chosen).reshape(targets.shape)


def _hidden(model: Decoder, tokens_BS: jax.Array) -> jax.Array:
    """Hidden states after the final norm, float32 [B x S, D]."""
    windows, length = tokens_BS.shape
    x_TD = model.embedding(tokens_BS.reshape(-1))
    rope = rope_tables(model.config, jnp.tile(jnp.arange(length), windows))
    for layer in model.layers:
        q, k, v = (y.reshape(windows, length, *y.shape[1:]) for y in layer.project(x_TD, rope))
        x_TD = layer.extend(x_TD, causal_attention(q, k, v))
    return model.norm(x_TD)


def causal_attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Attention of q [B, S, K, G, H] over k and v [B, S, K, H] up to its own position: as q."""
    length, scale = q.shape[1], q.shape[-1] ** -0.5

    def tile(start: int) -> jax.Array:
        end = min(start + _TILE, length)
        scores = jnp.einsum("bqkgh,bskh->bkgqs", q[:, start:end] * scale, k[:, :end])
        seen = jnp.arange(end) <= jnp.arange(start, end)[:, None]
        weights = jax.nn.softmax(jnp.where(seen, scores, _NEVER), axis=-1)
        return jnp.einsum("bkgqs,bskh->bqkgh", weights, v[:, :end])

    return jnp.concatenate([tile(start) for start in range(0, length, _TILE)], axis=1)
