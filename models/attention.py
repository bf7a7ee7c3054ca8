"""Attention over the paged KV pool: one interface, and its XLA backend.

The pool holds blocks of `block_size` token slots, keys and values apart, KV-head-major so that a
block feeds a batched product without being transposed. A row's block table says which blocks hold
its tokens, in order; block 0 takes the writes of padding. The backend walks the context in chunks
with a running softmax (Milakov and Gimelshein, 2018) and stops at the longest row's end, so its
cost follows the real lengths and no program depends on the context. It knows no weights and no
scheduling.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# Context tokens per round of the running softmax; measured best on CPU between 64 and 256.
_CHUNK_TOKENS = 128
# Query tokens per tile of a prefill, and tiles worked on together.
_TILE_TOKENS = 32
_TILE_GROUP = 4
_NEVER = -1e30
_FAR = 2**31 - 1


# An array; or, of the same tree, its shape or its PartitionSpec.
type Leaf = Any


class KVLayer(NamedTuple):
    """One layer's pool on one shard: [B, K, P, H] each, blocks x KV heads x slots x head size."""

    k: Leaf
    v: Leaf


class Ragged(NamedTuple):
    """Where each token of a step belongs. Rows come decodes first; padding rows are empty.

    `positions_T` is the token's position in its sequence, `row_T` its row (padding: any, with
    `is_padding_T`). `seq_lens_S` is the KV length after this step, `query_start_S1` cumulative.
    The first `num_decodes` rows have one token each, at the same index as the row.
    """

    positions_T: jax.Array
    row_T: jax.Array
    is_padding_T: jax.Array
    block_tables_SB: jax.Array
    seq_lens_S: jax.Array
    query_start_S1: jax.Array
    num_decodes: jax.Array


class _Softmax(NamedTuple):
    """The running softmax of N queries groups: maximum, sum, weighted values."""

    maximum: jax.Array
    total: jax.Array
    values: jax.Array


def write_kv(layer: KVLayer, ragged: Ragged, k_TKH: jax.Array, v_TKH: jax.Array) -> KVLayer:
    """Put this step's keys and values into their slots."""
    block_size = layer.k.shape[2]
    block_T = ragged.block_tables_SB[ragged.row_T, ragged.positions_T // block_size]
    block_T = jnp.where(ragged.is_padding_T, 0, block_T)
    slot_T = ragged.positions_T % block_size
    return KVLayer(
        layer.k.at[block_T, :, slot_T].set(k_TKH.astype(layer.k.dtype)),
        layer.v.at[block_T, :, slot_T].set(v_TKH.astype(layer.v.dtype)),
    )


def attend(
    layer: KVLayer, ragged: Ragged, q_TKGH: jax.Array, *, window: int | None, decode_only: bool
) -> jax.Array:
    """Causal attention of every token over its own sequence: float32 [T, K, G, H].

    `window` limits a token to the last `window` positions, itself included. `decode_only` promises
    that every row has one token.
    """
    q_TKGH = q_TKGH * q_TKGH.shape[-1] ** -0.5
    num_rows = ragged.seq_lens_S.shape[0]
    out = _attend_decodes(layer, ragged, q_TKGH[:num_rows], window)
    if decode_only:
        return out
    out = jnp.zeros(q_TKGH.shape, jnp.float32).at[:num_rows].set(out)
    return _attend_prefills(layer, ragged, q_TKGH, out, window)


def _attend_decodes(
    layer: KVLayer, ragged: Ragged, q_SKGH: jax.Array, window: int | None
) -> jax.Array:
    """One query a row, for the first `num_decodes` rows; the others give zeros."""
    is_decode = jnp.arange(q_SKGH.shape[0]) < ragged.num_decodes
    lens_S = jnp.where(is_decode, ragged.seq_lens_S, 0)
    out = _over_context(
        layer, q_SKGH[:, :, None], (lens_S - 1)[:, None], ragged.block_tables_SB, window
    )
    return out[:, :, 0]


def _attend_prefills(
    layer: KVLayer, ragged: Ragged, q_TKGH: jax.Array, out: jax.Array, window: int | None
) -> jax.Array:
    """Rows of several tokens, cut into tiles; a loop runs as many groups of tiles as there are."""
    num_tokens, num_rows = q_TKGH.shape[0], ragged.seq_lens_S.shape[0]
    query_lens = jnp.diff(ragged.query_start_S1)
    is_prefill = jnp.arange(num_rows) >= ragged.num_decodes
    num_tiles_S = jnp.where(is_prefill, -(-query_lens // _TILE_TOKENS), 0)
    last_tile_S = jnp.cumsum(num_tiles_S)

    def group(i: jax.Array, out: jax.Array) -> jax.Array:
        tile = i * _TILE_GROUP + jnp.arange(_TILE_GROUP)
        row = jnp.clip(jnp.searchsorted(last_tile_S, tile, side="right"), 0, num_rows - 1)
        first = (tile - (last_tile_S - num_tiles_S)[row]) * _TILE_TOKENS
        offset = first[:, None] + jnp.arange(_TILE_TOKENS)
        is_real = (tile < last_tile_S[-1])[:, None] & (offset < query_lens[row][:, None])
        token = jnp.where(is_real, ragged.query_start_S1[row][:, None] + offset, num_tokens)
        q = q_TKGH.at[token].get(mode="fill", fill_value=0.0)
        position = jnp.where(is_real, ragged.positions_T.at[token].get(mode="fill"), -1)
        tables = ragged.block_tables_SB[row]
        o = _over_context(layer, q.swapaxes(1, 2), position, tables, window)
        return out.at[token].set(o.swapaxes(1, 2), mode="drop")

    return jax.lax.fori_loop(0, -(-last_tile_S[-1] // _TILE_GROUP), group, out)


def _over_context(
    layer: KVLayer,
    q_NKQGH: jax.Array,
    position_NQ: jax.Array,
    tables_NB: jax.Array,
    window: int | None,
) -> jax.Array:
    """Attention of N groups of Q queries, each group over one block table: [N, K, Q, G, H].

    A query at position p sees positions 0..p; p = -1 sees nothing and gives zeros.
    """
    n, kv_heads, q_len, group, head_dim = q_NKQGH.shape
    block_size = layer.k.shape[2]
    blocks = max(1, min(_CHUNK_TOKENS // block_size, tables_NB.shape[1]))
    tables_NB = jnp.pad(tables_NB, ((0, 0), (0, -tables_NB.shape[1] % blocks)))
    q = q_NKQGH.reshape(n, kv_heads, q_len * group, head_dim).astype(layer.k.dtype)
    limit = jnp.repeat(position_NQ, group, axis=1)[:, None, None, :, None]
    last_seen = jnp.max(position_NQ, axis=1)[:, None, None, None, None]

    def chunk(i: jax.Array, state: _Softmax) -> _Softmax:
        ids = jax.lax.dynamic_slice_in_dim(tables_NB, i * blocks, blocks, 1)
        position = (i * blocks + jnp.arange(blocks))[:, None] * block_size + jnp.arange(block_size)
        position = position[None, :, None, None, :]
        seen = position <= limit
        if window is not None:
            seen &= position > limit - window
        # A weight of zero would not keep out a NaN that a failed sequence left in a free slot.
        v = jnp.where(position[:, :, :, 0, :, None] <= last_seen, layer.v[ids], 0)
        return _fold(state, q, layer.k[ids], v, seen)

    first: int | jax.Array = 0
    if window is not None:
        earliest = jnp.min(jnp.where(position_NQ < 0, _FAR, position_NQ))
        first = jnp.maximum(earliest - window + 1, 0) // (blocks * block_size)
    last = -(-(jnp.max(position_NQ) + 1) // (blocks * block_size))
    shape = (n, kv_heads, q_len * group)
    start = _Softmax(
        jnp.full(shape, _NEVER), jnp.zeros(shape), jnp.zeros((*shape, head_dim), jnp.float32)
    )
    state = jax.lax.fori_loop(first, last, chunk, start)
    out = state.values / jnp.maximum(state.total, 1e-30)[..., None]
    return out.reshape(q_NKQGH.shape)


def _fold(state: _Softmax, q: jax.Array, k: jax.Array, v: jax.Array, seen: jax.Array) -> _Softmax:
    """Add a chunk of blocks [N, C, K, P, H] to the running softmax of `q` [N, K, R, H]."""
    f32 = jnp.float32
    scores = jnp.einsum("nkrh,nckph->nckrp", q, k, preferred_element_type=f32)
    scores = jnp.where(seen, scores, _NEVER)
    maximum = jnp.maximum(state.maximum, jnp.max(scores, axis=(1, 4)))
    rescale = jnp.exp(state.maximum - maximum)
    weights = jnp.where(seen, jnp.exp(scores - maximum[:, None, :, :, None]), 0.0)
    values = jnp.einsum("nckrp,nckph->nkrh", weights.astype(v.dtype), v, preferred_element_type=f32)
    return _Softmax(
        maximum,
        state.total * rescale + jnp.sum(weights, axis=(1, 4)),
        state.values * rescale[..., None] + values,
    )
