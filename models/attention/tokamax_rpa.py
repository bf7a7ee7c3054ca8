"""The preferred TPU backend: tokamax's ragged paged attention, planned once per step.

tokamax's public entry point computes a schedule and launches three kernels in every layer. The
schedule depends only on lengths, so this backend makes it once for all layers of a kind. It also
launches only the kernel that the program's rows need: 1 + L launches per step instead of 6 L. This
uses tokamax's internal modules, so the project pins its exact version. The kernel writes keys and
values in place. It compiles only for TPU and computes in the dtype of the queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from models.attention.base import AttentionSpec, PoolShape, Ragged
from models.attention.later_tokens import CausalAttention, with_later_tokens
from models.sharding import DATA, TENSOR

# Tuned sizes: query and context tokens per round, and rows or tiles processed together.
_DECODE_BLOCKS = {"bq_sz": 1, "bq_c_sz": 1, "batch_size": 8}
_PREFILL_BLOCKS = {"bq_sz": 128, "bq_c_sz": 64, "batch_size": 2}
_CONTEXT_TOKENS, _NUM_BUFFERS = 512, 3
_LANES = 128


class Lengths(NamedTuple):
    """The kernel's view of the rows: query ends, first positions, cached and new tokens."""

    query_start_S1: jax.Array
    first_position_S: jax.Array
    num_cached_S: jax.Array
    num_new_S: jax.Array


class RpaPlan(NamedTuple):
    lengths: Lengths
    schedule: Any
    image_start_M: jax.Array | None
    image_size_M: jax.Array | None


@dataclass(frozen=True, slots=True)
class TokamaxAttention:
    """A `Backend` over one array of interleaved keys and values: [B, P, 2K / pack, pack, H]."""

    def abstract_pool(self, shape: PoolShape) -> jax.ShapeDtypeStruct:
        pack = _packing(shape.dtype)
        lanes = -(-shape.head_dim // _LANES) * _LANES
        size = (shape.num_blocks, shape.block_size, -(-2 * shape.kv_heads // pack), pack, lanes)
        return jax.ShapeDtypeStruct(size, shape.dtype)

    def pool_specs(self) -> PartitionSpec:
        return PartitionSpec(DATA, None, TENSOR)

    def block_size(self, pool: jax.Array) -> int:
        return int(pool.shape[1])

    def plan(self, spec: AttentionSpec, ragged: Ragged) -> RpaPlan:
        from tokamax._src.ops.batched_rpa.kernel import schedule

        num_new = jnp.diff(ragged.query_start_S1)
        first = ragged.seq_lens_S - num_new
        lengths = Lengths(ragged.query_start_S1, first, first, num_new)
        # A bucket of decodes uses the decode kernel, any other one the mixed kernel for all rows.
        rows = ragged.num_rows
        ends = (rows, rows, rows) if spec.decode_only else (jnp.zeros_like(rows),) * 2 + (rows,)
        num_tokens = ragged.positions_T.shape[0]
        # The schedule is the same for every dtype.
        table = ragged.block_tables_KSB.shape[1:]
        cfgs = _configs(spec, num_tokens, table, jnp.dtype(jnp.bfloat16))
        metadata = schedule.generate_rpa_metadata(*lengths, jnp.stack(ends), cfgs=cfgs)
        if not spec.image_tokens:
            return RpaPlan(lengths, metadata, None, None)
        return RpaPlan(lengths, metadata, ragged.image_start_M, ragged.image_size_M)

    def attend(
        self,
        spec: AttentionSpec,
        plan: RpaPlan,
        q_KTGH: jax.Array,
        kv_TK2H: jax.Array,
        pool: jax.Array,
        table_SB: jax.Array,
        sinks_KG: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        from tokamax._src.ops.batched_rpa.kernel import kernel

        dtype, num_tokens = q_KTGH.dtype, q_KTGH.shape[1]
        # What the kernel does not know of is joined to its softmax afterwards.
        needs_lse = sinks_KG is not None or plan.image_start_M is not None
        cfgs = _configs(spec, num_tokens, table_SB.shape, dtype, return_lse=needs_lse)
        packed = _pack_queries(q_KTGH)
        lse = _empty_lse(packed) if needs_lse else None
        out, pool, lse = kernel.rpa_kernel(
            *plan.lengths,
            table_SB.reshape(-1),
            plan.schedule,
            packed,
            _pack_keys(kv_TK2H),
            pool,
            lse,
            cfgs=cfgs,
        )
        k, t, g, h = q_KTGH.shape
        out = out.reshape(k, t, -1, out.shape[-1])[:, :, :g, :h]
        if not needs_lse:
            return out, pool
        lse_KTG = lse.reshape(k, t, -1, lse.shape[-1])[:, :, :g, 0]
        if plan.image_start_M is not None:
            causal = CausalAttention(out, lse_KTG, q_KTGH, kv_TK2H)
            out, lse_KTG = with_later_tokens(causal, plan.image_start_M, spec, plan.image_size_M)
        if sinks_KG is not None:
            out = _with_sinks(out, lse_KTG, sinks_KG)
        return out, pool


def _empty_lse(packed_q: jax.Array) -> jax.Array:
    """Room for the logarithm of each query head's sum, which the kernel repeats in all lanes."""
    return jnp.full((*packed_q.shape[:-1], _LANES), -jnp.inf, packed_q.dtype)


def _with_sinks(out_KTGH: jax.Array, lse_KTG: jax.Array, sinks_KG: jax.Array) -> jax.Array:
    """Attention as if the sink had taken part in the softmax, from its sum without the sink."""
    share = jax.nn.sigmoid(lse_KTG.astype(jnp.float32) - sinks_KG[:, None])
    return (out_KTGH.astype(jnp.float32) * share[..., None]).astype(out_KTGH.dtype)


def _pack_queries(q_KTGH: jax.Array) -> jax.Array:
    """[K, T, G / pack, pack, H], the group and head size padded to whole tiles."""
    k, t, g, h = q_KTGH.shape
    pack = _packing(q_KTGH.dtype)
    padded = jnp.pad(q_KTGH, ((0, 0), (0, 0), (0, -g % pack), (0, -h % _LANES)))
    return padded.reshape(k, t, -1, pack, padded.shape[-1])


def _pack_keys(kv_TK2H: jax.Array) -> jax.Array:
    """[T, 2K / pack, pack, H]: K0, V0, K1, V1 and so on, padded to whole tiles."""
    t, k, _, h = kv_TK2H.shape
    pack = _packing(kv_TK2H.dtype)
    flat = kv_TK2H.reshape(t, 2 * k, h)
    padded = jnp.pad(flat, ((0, 0), (0, -(2 * k) % pack), (0, -h % _LANES)))
    return padded.reshape(t, -1, pack, padded.shape[-1])


def _packing(dtype: jnp.dtype) -> int:
    return 4 // dtype.itemsize


def _configs(
    spec: AttentionSpec,
    num_tokens: int,
    table: tuple[int, ...],
    dtype: jnp.dtype,
    *,
    return_lse: bool = False,
) -> Any:
    """The kernel's static description; `table` is the number of rows and of blocks per row."""
    from jax.experimental.pallas import tpu as pltpu
    from tokamax._src.ops.batched_rpa.kernel import configs

    blocks = _DECODE_BLOCKS if spec.decode_only else _PREFILL_BLOCKS
    one = 1.0 if spec.kv_dtype.itemsize == 1 else None
    return configs.RpaConfigs(
        block=configs.BlockSizes(bkv_sz=_CONTEXT_TOKENS, n_buffer=_NUM_BUFFERS, **blocks),
        mode=configs.RpaCase.DECODE if spec.decode_only else configs.RpaCase.MIXED,
        model=configs.ModelConfigs(
            num_q_heads=spec.kv_heads * spec.group,
            num_kv_heads=spec.kv_heads,
            head_dim=spec.head_dim,
            soft_cap=spec.softcap,
            sliding_window=spec.window,
            sm_scale=spec.scale,
            mask_value=float(jnp.finfo(dtype).min),
        ),
        serve=configs.ServingConfigs(
            num_seqs=table[0],
            num_page_indices=table[0] * table[1],
            total_q_tokens=num_tokens,
            dtype_q=dtype,
            dtype_out=dtype,
            dtype_kv=spec.kv_dtype,
            page_size=spec.block_size,
            per_token_scale=False,
            scale_k=one,
            scale_v=one,
            return_lse=return_lse,
        ),
        vmem_limit_bytes=pltpu.get_tpu_info().vmem_capacity_bytes,
    )
