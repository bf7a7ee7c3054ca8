"""Attention of a few queries to a row over paged keys and values that are read once.

Softmax and sums are in float32, also over bfloat16. Needs the library (`are_available`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

# With more positions to a row, XLA's products are large enough.
_MOST_POSITIONS = 8
# The floats of the widest register: a kernel takes whole registers of tokens and of a head.
_LANES = 16


def suits(q_NKQGH: jax.Array, k_BKPH: jax.Array) -> bool:
    """Whether `attention` takes these shapes and types."""
    is_whole = k_BKPH.shape[2] % _LANES == 0 and k_BKPH.shape[3] % _LANES == 0
    is_small = q_NKQGH.shape[2] <= _MOST_POSITIONS
    return is_whole and is_small and k_BKPH.dtype in (jnp.bfloat16, jnp.float32)


def attention(
    q_NKQGH: jax.Array,
    seen_NQ: tuple[jax.Array, jax.Array],
    table_NB: jax.Array,
    pool: tuple[jax.Array, jax.Array],
    *,
    softcap: float | None,
    sinks_KG: jax.Array | None,
) -> jax.Array:
    """Attention of N groups of scaled float32 queries, each group over one block table.

    `seen_NQ` has the first and the last position that a query sees, `pool` keys and values
    [B, K, P, H]. Returns float32 [N, K, Q, G, H], zeros where a query sees nothing.
    """
    sinks = jnp.zeros((0, 0)) if sinks_KG is None else sinks_KG
    call = jax.ffi.ffi_call("antipode_attention", jax.ShapeDtypeStruct(q_NKQGH.shape, jnp.float32))
    indices = (each.astype(jnp.int32) for each in (*seen_NQ, table_NB))
    out: jax.Array = call(
        q_NKQGH, *indices, *pool, sinks.astype(jnp.float32), softcap=np.float32(softcap or 0)
    )
    return out
