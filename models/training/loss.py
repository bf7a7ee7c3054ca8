"""The training loss: the decoder runs over whole windows of text.

Training uses the served decoder with its own attention backend, which is causal over each window
and has no KV pool, so that JAX can differentiate it. The tensor axis must have one shard. Knows no
optimizer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from models.attention.base import AttentionSpec, PoolShape, Ragged
from models.decoder.decoder import Decoder
from models.decoder.layout import DecoderLayout
from models.sharding import DATA, TENSOR

# Queries per tile: smaller tiles compute less above the diagonal, but in more, smaller products.
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
    """The loss of every token except a window's first, given its context: float32 [B, W - 1]."""
    inputs, targets = tokens_BW[:, :-1], tokens_BW[:, 1:]
    logits = model.logits(_hidden(model, inputs))
    chosen = jnp.take_along_axis(logits, targets.reshape(-1, 1), axis=1)[:, 0]
    return (jax.nn.logsumexp(logits, axis=1) - chosen).reshape(targets.shape)


@dataclass(frozen=True, slots=True)
class WindowAttention:
    """A `Backend` without a pool: rows are windows of equal length that attend to themselves."""

    def abstract_pool(self, shape: PoolShape) -> tuple[()]:
        return ()

    def pool_specs(self) -> tuple[()]:
        return ()

    def block_size(self, pool: tuple[()]) -> int:
        return 1

    def plan(self, spec: AttentionSpec, ragged: Ragged) -> None:
        return None

    def attend(
        self,
        spec: AttentionSpec,
        plan: None,
        q_KTGH: jax.Array,
        kv_TK2H: jax.Array,
        pool: tuple[()],
        table_SB: jax.Array,
        sinks_KG: jax.Array | None = None,
    ) -> tuple[jax.Array, tuple[()]]:
        windows = table_SB.shape[0]
        q = q_KTGH.swapaxes(0, 1)
        q, kv = (y.reshape(windows, -1, *y.shape[1:]) for y in (q, kv_TK2H))
        out = causal_attention(q, kv[:, :, :, 0], kv[:, :, :, 1], spec.scale)
        return out.reshape(-1, *out.shape[2:]).swapaxes(0, 1), pool


def training_layout() -> DecoderLayout:
    """The layout for training: float32 on one device, with listed layers."""
    f32 = jnp.dtype(jnp.float32)
    return DecoderLayout(
        tensor_size=1,
        stacked=False,
        dtype=f32,
        activation_dtype=f32,
        kv_dtype=f32,
        backend=WindowAttention(),
    )


def _hidden(model: Decoder, tokens_BS: jax.Array) -> jax.Array:
    """Hidden states after the final norm, float32 [B x S, D]."""
    windows, length = tokens_BS.shape
    total = windows * length
    ragged = Ragged(
        positions_T=jnp.tile(jnp.arange(length), windows),
        row_T=jnp.repeat(jnp.arange(windows), length),
        is_padding_T=jnp.zeros(total, jnp.bool_),
        block_tables_KSB=jnp.zeros((1, windows, 1), jnp.int32),
        seq_lens_S=jnp.full(windows, length),
        query_start_S1=jnp.arange(windows + 1) * length,
        num_decodes=jnp.int32(0),
        num_rows=jnp.int32(windows),
    )
    pools = ((),) * model.config.num_layers
    x_TD, _ = model(tokens_BS.reshape(-1), pools, ragged, row_tokens=None)
    return x_TD


def causal_attention(q: jax.Array, k: jax.Array, v: jax.Array, scale: float) -> jax.Array:
    """Attention of q [B, S, K, G, H] over k and v [B, S, K, H] up to its own position: as q."""
    length = q.shape[1]

    def tile(start: int) -> jax.Array:
        end = min(start + _TILE, length)
        scores = jnp.einsum("bqkgh,bskh->bkgqs", q[:, start:end] * scale, k[:, :end])
        seen = jnp.arange(end) <= jnp.arange(start, end)[:, None]
        weights = jax.nn.softmax(jnp.where(seen, scores, _NEVER), axis=-1)
        return jnp.einsum("bkgqs,bskh->bqkgh", weights, v[:, :end])

    return jnp.concatenate([tile(start) for start in range(0, length, _TILE)], axis=1)
