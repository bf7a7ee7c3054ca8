"""The TPU fallback: the ragged paged attention kernel that ships with JAX.

It supports only head size 128 and compiles only for TPU. The kernel does not write the pool, so
this backend scatters keys and values into the pool first.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from models.attention.base import AttentionSpec, PoolShape, Ragged
from models.sharding import DATA, TENSOR

HEAD_DIM = 128
# The numbers of KV heads on one chip for which the kernel's tiles are whole.
KV_HEADS = (1, 2, 4, 8, 16, 32)

# The kernel's own choice needs a device, and ahead-of-time compilation has none.
_CONTEXT_TOKENS = 512
_DECODE_QUERIES, _PREFILL_QUERIES = 8, 64


@dataclass(frozen=True, slots=True)
class PallasAttention:
    """A `Backend` over one array of interleaved keys and values: [B, P, 2K, H]."""

    def abstract_pool(self, shape: PoolShape) -> jax.ShapeDtypeStruct:
        size = (shape.num_blocks, shape.block_size, 2 * shape.kv_heads, shape.head_dim)
        return jax.ShapeDtypeStruct(size, shape.dtype)

    def pool_specs(self) -> PartitionSpec:
        return PartitionSpec(DATA, None, TENSOR)

    def block_size(self, pool: jax.Array) -> int:
        return int(pool.shape[1])

    def plan(self, spec: AttentionSpec, ragged: Ragged) -> Ragged:
        return ragged

    def attend(
        self,
        spec: AttentionSpec,
        plan: Ragged,
        q_KTGH: jax.Array,
        kv_TK2H: jax.Array,
        pool: jax.Array,
        table_SB: jax.Array,
        sinks_KG: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        from jax.experimental.pallas.ops.tpu.ragged_paged_attention import ragged_paged_attention

        pool = _write(pool, plan, table_SB, kv_TK2H)
        one = 1.0 if spec.kv_dtype.itemsize == 1 else None
        out = ragged_paged_attention(
            q_KTGH.swapaxes(0, 1).reshape(q_KTGH.shape[1], -1, spec.head_dim),
            pool,
            plan.seq_lens_S,
            table_SB,
            plan.query_start_S1,
            plan.num_rows[None],
            sm_scale=spec.scale,
            sliding_window=spec.window,
            soft_cap=spec.softcap,
            k_scale=one,
            v_scale=one,
            num_kv_pages_per_block=min(table_SB.shape[1], -(-_CONTEXT_TOKENS // spec.block_size)),
            num_queries_per_block=_DECODE_QUERIES if spec.decode_only else _PREFILL_QUERIES,
        )
        k, t, g, h = q_KTGH.shape
        return out.reshape(t, k, g, h).swapaxes(0, 1), pool


def _write(pool: jax.Array, ragged: Ragged, table_SB: jax.Array, kv_TK2H: jax.Array) -> jax.Array:
    """Put this step's keys and values into their slots: K0, V0, K1, V1 and so on."""
    block_size = pool.shape[1]
    block_T = table_SB[ragged.row_T, ragged.positions_T // block_size]
    block_T = jnp.where(ragged.is_padding_T, 0, block_T)
    kv = kv_TK2H.reshape(kv_TK2H.shape[0], -1, kv_TK2H.shape[-1])
    return pool.at[block_T, ragged.positions_T % block_size].set(kv)
