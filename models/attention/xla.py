"""The XLA backend: attention in array operations, for CPU and GPU, and the other backends' oracle.

The pool is KV-head-major and keeps keys and values apart, so that a block feeds a batched product
without a transpose. A running softmax (Milakov and Gimelshein, 2018) goes over the context in
chunks and stops at the end of the longest row. So the cost follows the real lengths, and no program
depends on the context's length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from models.attention.base import AttentionSpec, PoolShape, Ragged
from models.cpu_kernels.attention import attention, suits
from models.sharding import DATA, TENSOR

# Context tokens per round of the running softmax; measured best on CPU between 64 and 256.
_CHUNK_TOKENS = 64
# Query tokens per tile of a prefill, and tiles processed together.
_TILE_TOKENS = 32
_TILE_GROUP = 4
_NEVER = -1e30
_FAR = 2**31 - 1

# An array, its shape or its PartitionSpec.
type Leaf = Any


class KVBlocks(NamedTuple):
    """A pool on one shard: [B, K, P, H] each, blocks x KV heads x slots x head size."""

    k: Leaf
    v: Leaf


@dataclass(frozen=True, slots=True)
class XlaAttention:
    """A `Backend` that runs wherever XLA does."""

    def abstract_pool(self, shape: PoolShape) -> KVBlocks:
        blocks = (shape.num_blocks, shape.kv_heads, shape.block_size, shape.head_dim)
        leaf = jax.ShapeDtypeStruct(blocks, shape.dtype)
        return KVBlocks(leaf, leaf)

    def pool_specs(self) -> KVBlocks:
        split = PartitionSpec(DATA, TENSOR)
        return KVBlocks(split, split)

    def block_size(self, pool: KVBlocks) -> int:
        return int(pool.k.shape[2])

    def plan(self, spec: AttentionSpec, ragged: Ragged) -> Ragged:
        return ragged

    def attend(
        self,
        spec: AttentionSpec,
        plan: Ragged,
        q_KTGH: jax.Array,
        kv_TK2H: jax.Array,
        pool: KVBlocks,
        table_SB: jax.Array,
        sinks_KG: jax.Array | None = None,
    ) -> tuple[jax.Array, KVBlocks]:
        pool = _write(pool, plan, table_SB, kv_TK2H)
        scaled = q_KTGH.swapaxes(0, 1).astype(jnp.float32) * spec.scale
        out = _attend(_Context(pool, plan, table_SB, spec, sinks_KG), scaled)
        return out.astype(q_KTGH.dtype).swapaxes(0, 1), pool


class _Context(NamedTuple):
    """The part of the pool that a layer's queries attend to."""

    pool: KVBlocks
    ragged: Ragged
    table_SB: jax.Array
    spec: AttentionSpec
    sinks_KG: jax.Array | None


class _Softmax(NamedTuple):
    """The running softmax of N groups of queries: maximum, sum, weighted values."""

    maximum: jax.Array
    total: jax.Array
    values: jax.Array


def _write(pool: KVBlocks, ragged: Ragged, table_SB: jax.Array, kv_TK2H: jax.Array) -> KVBlocks:
    """Put this step's keys and values into their slots."""
    block_size = pool.k.shape[2]
    block_T = table_SB[ragged.row_T, ragged.positions_T // block_size]
    block_T = jnp.where(ragged.is_padding_T, 0, block_T)
    slot_T = ragged.positions_T % block_size
    return KVBlocks(
        pool.k.at[block_T, :, slot_T].set(kv_TK2H[:, :, 0]),
        pool.v.at[block_T, :, slot_T].set(kv_TK2H[:, :, 1]),
    )


def _attend(context: _Context, q_TKGH: jax.Array) -> jax.Array:
    """Attention of every token over its own sequence: float32 [T, K, G, H]."""
    num_rows = context.ragged.seq_lens_S.shape[0]
    if context.spec.row_tokens is not None and not context.spec.decode_only:
        return _attend_short_rows(context, q_TKGH, context.spec.row_tokens)
    out = _attend_decodes(context, q_TKGH[:num_rows])
    if context.spec.decode_only:
        return out
    out = jnp.zeros(q_TKGH.shape, jnp.float32).at[:num_rows].set(out[: q_TKGH.shape[0]])
    return _attend_prefills(context, q_TKGH, out)


def _attend_decodes(context: _Context, q_SKGH: jax.Array) -> jax.Array:
    """One query per row, for the first `num_decodes` rows; the other rows give zeros."""
    ragged, num_queries = context.ragged, q_SKGH.shape[0]
    is_decode = jnp.arange(num_queries) < ragged.num_decodes
    lens_S = jnp.where(is_decode, ragged.seq_lens_S[:num_queries], 0)
    tables = context.table_SB[:num_queries]
    position_S1 = (lens_S - 1)[:, None]
    out = _over_context(context, q_SKGH[:, :, None], position_S1, position_S1, tables)
    return out[:, :, 0]


def _attend_short_rows(context: _Context, q_TKGH: jax.Array, row_tokens: int) -> jax.Array:
    """All rows together, each padded to `row_tokens` queries."""
    query_lens = jnp.diff(context.ragged.query_start_S1)
    offset = jnp.arange(row_tokens)
    token = context.ragged.query_start_S1[:-1, None] + offset
    token = jnp.where(offset < query_lens[:, None], token, q_TKGH.shape[0])
    out = jnp.zeros(q_TKGH.shape, jnp.float32)
    return _attend_groups(context, q_TKGH, token, context.table_SB, out)


def _attend_groups(
    context: _Context, q_TKGH: jax.Array, token_NQ: jax.Array, table_NB: jax.Array, out: jax.Array
) -> jax.Array:
    """`out` with the attention of groups of tokens, each of one row; token T stands for none."""
    is_real = token_NQ < q_TKGH.shape[0]
    q = q_TKGH.at[token_NQ].get(mode="fill", fill_value=0.0)
    position = jnp.where(is_real, context.ragged.positions_T.at[token_NQ].get(mode="fill"), -1)
    last = _last_seen(context, token_NQ, position)
    o = _over_context(context, q.swapaxes(1, 2), position, last, table_NB)
    return out.at[token_NQ].set(o.swapaxes(1, 2), mode="drop")


def _last_seen(context: _Context, token_NQ: jax.Array, position_NQ: jax.Array) -> jax.Array:
    """The last position that each query sees: its own, or a later one of its row."""
    spec, ragged = context.spec, context.ragged
    if ragged.last_seen_T is not None and spec.image_tokens:
        last_NQ = ragged.last_seen_T.at[token_NQ].get(mode="clip")
        return jnp.where(position_NQ < 0, -1, last_NQ)
    if not spec.bidirectional:
        return position_NQ
    row_NQ = ragged.row_T.at[token_NQ].get(mode="clip")
    last_NQ = ragged.seq_lens_S[row_NQ] - 1
    if spec.window is not None:
        last_NQ = jnp.minimum(last_NQ, position_NQ + spec.window - 1)
    return jnp.where(position_NQ < 0, -1, last_NQ)


def _attend_prefills(context: _Context, q_TKGH: jax.Array, out: jax.Array) -> jax.Array:
    """Rows of several tokens, cut into tiles; a loop runs over the groups of tiles."""
    ragged, num_tokens = context.ragged, q_TKGH.shape[0]
    num_rows = ragged.seq_lens_S.shape[0]
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
        return _attend_groups(context, q_TKGH, token, context.table_SB[row], out)

    return jax.lax.fori_loop(0, -(-last_tile_S[-1] // _TILE_GROUP), group, out)


def _over_context(
    context: _Context,
    q_NKQGH: jax.Array,
    position_NQ: jax.Array,
    last_NQ: jax.Array,
    tables_NB: jax.Array,
) -> jax.Array:
    """Attention of N groups of Q queries, each group over one block table: [N, K, Q, G, H].

    A query at position p sees its window up to `last_NQ`; p = -1 sees nothing and gives zeros.
    """
    pool, spec = context.pool, context.spec
    if spec.cpu_kernels and suits(q_NKQGH, pool.k):
        return _by_kernel(context, q_NKQGH, position_NQ, last_NQ, tables_NB)
    n, kv_heads, q_len, group, head_dim = q_NKQGH.shape
    dtype = _product_dtype(spec)
    blocks = max(1, min(_CHUNK_TOKENS // spec.block_size, tables_NB.shape[1]))
    tables_NB = jnp.pad(tables_NB, ((0, 0), (0, -tables_NB.shape[1] % blocks)))
    q = q_NKQGH.reshape(n, kv_heads, q_len * group, head_dim).astype(dtype)
    own, limit = (_per_query(each, group) for each in (position_NQ, last_NQ))
    first_seen, last_seen = _first_seen(position_NQ, spec.window), jnp.max(last_NQ, axis=1)

    chunk_tokens = blocks * spec.block_size
    heads = jnp.arange(kv_heads)[:, None]

    def chunk(i: jax.Array, state: _Softmax) -> _Softmax:
        ids = jax.lax.dynamic_slice_in_dim(tables_NB, i * blocks, blocks, 1)[:, None]
        # Heads before blocks: then a chunk is one product per head, not one per block.
        k, v = (each[ids, heads].reshape(n, kv_heads, chunk_tokens, -1) for each in pool)
        position = (i * chunk_tokens + jnp.arange(chunk_tokens))[None, None, None]
        seen = position <= limit
        if spec.window is not None:
            seen &= position > own - spec.window
        # A weight of zero does not stop a NaN, which a failed sequence or the padding may hold.
        is_kept = (position >= _per_group(first_seen)) & (position <= _per_group(last_seen))
        v = jnp.where(is_kept[:, :, 0, :, None], v.astype(dtype), 0)
        return _fold(state, q, k.astype(dtype), v, seen, spec.softcap)

    first, last = jnp.min(first_seen) // chunk_tokens, -(-(jnp.max(last_seen) + 1) // chunk_tokens)
    start = _start(context.sinks_KG, (n, kv_heads, q_len, group), head_dim)
    state = jax.lax.fori_loop(first, last, chunk, start)
    out = state.values / jnp.maximum(state.total, 1e-30)[..., None]
    return out.reshape(q_NKQGH.shape)


def _by_kernel(
    context: _Context,
    q_NKQGH: jax.Array,
    position_NQ: jax.Array,
    last_NQ: jax.Array,
    tables_NB: jax.Array,
) -> jax.Array:
    """The same, by the kernel for CPUs, to which each query has a range of its own."""
    window, cap, sinks = context.spec.window, context.spec.softcap, context.sinks_KG
    first_NQ = 0 * position_NQ if window is None else jnp.maximum(position_NQ - window + 1, 0)
    seen_NQ = (first_NQ, last_NQ)
    return attention(q_NKQGH, seen_NQ, tables_NB, context.pool, softcap=cap, sinks_KG=sinks)


def _start(sinks_KG: jax.Array | None, shape: tuple[int, int, int, int], head_dim: int) -> _Softmax:
    """The softmax [N, K, Q x G] over nothing, or over each head's sink, which has no value."""
    n, kv_heads, q_len, group = shape
    flat = (n, kv_heads, q_len * group)
    values = jnp.zeros((*flat, head_dim), jnp.float32)
    if sinks_KG is None:
        return _Softmax(jnp.full(flat, _NEVER), jnp.zeros(flat), values)
    maximum = jnp.broadcast_to(sinks_KG[None, :, None], shape).reshape(flat)
    return _Softmax(maximum.astype(jnp.float32), jnp.ones(flat), values)


def _product_dtype(spec: AttentionSpec) -> jnp.dtype:
    """Products run in the pool's dtype, unless it is one byte wide: that is only for storage."""
    return jnp.dtype(jnp.float32) if spec.kv_dtype.itemsize == 1 else spec.kv_dtype


def _first_seen(position_NQ: jax.Array, window: int | None) -> jax.Array:
    """The first position that any query of each group sees: [N]."""
    if window is None:
        return jnp.zeros_like(position_NQ[:, 0])
    earliest = jnp.min(jnp.where(position_NQ < 0, _FAR, position_NQ), axis=1)
    return jnp.maximum(earliest - window + 1, 0)


def _per_query(x_NQ: jax.Array, group: int) -> jax.Array:
    return jnp.repeat(x_NQ, group, axis=1)[:, None, :, None]


def _per_group(x_N: jax.Array) -> jax.Array:
    return x_N[:, None, None, None]


def _fold(
    state: _Softmax,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    seen: jax.Array,
    softcap: float | None,
) -> _Softmax:
    """Add a chunk of keys and values [N, K, C, H] to the running softmax of `q` [N, K, R, H]."""
    f32 = jnp.float32
    scores = jnp.einsum("nkrh,nkch->nkrc", q, k, preferred_element_type=f32)
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    scores = jnp.where(seen, scores, _NEVER)
    maximum = jnp.maximum(state.maximum, jnp.max(scores, axis=3))
    rescale = jnp.exp(state.maximum - maximum)
    weights = jnp.where(seen, jnp.exp(scores - maximum[..., None]), 0.0)
    values = jnp.einsum("nkrc,nkch->nkrh", weights.astype(v.dtype), v, preferred_element_type=f32)
    return _Softmax(
        maximum,
        state.total * rescale + jnp.sum(weights, axis=3),
        state.values * rescale[..., None] + values,
    )
