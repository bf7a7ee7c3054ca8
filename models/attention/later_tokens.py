"""Joins what the tokens of images see after themselves to attention that was causal.

A causal kernel leaves the logarithm of each softmax's sum. The later tokens of an image lie in the
same step, so a small dense product has their part, and both parts are one softmax (Dao et al.,
2022). The kernel of a TPU needs this; the XLA backend masks instead. Knows no pools.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from models.attention.base import AttentionSpec

_F32 = jnp.float32
_NEVER = -1e30


class CausalAttention(NamedTuple):
    """A step's causal attention, the logarithm of its sums, and what it was computed of."""

    out_KTGH: jax.Array
    lse_KTG: jax.Array
    q_KTGH: jax.Array
    kv_TK2H: jax.Array


def with_later_tokens(
    causal: CausalAttention,
    image_start_M: jax.Array,
    spec: AttentionSpec,
    image_size_M: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Attention [K, T, G, H] in which tokens of an image see all of it, and its logarithms.

    Each image has `image_size_M` tokens; None: as many as any. A step without images is left as it
    is, without the products.
    """
    num_tokens = causal.out_KTGH.shape[1]

    def join() -> tuple[jax.Array, jax.Array]:
        place_N = jnp.arange(spec.image_tokens)
        token_MN = image_start_M[:, None] + place_N
        if image_size_M is not None:
            token_MN = jnp.where(place_N < image_size_M[:, None], token_MN, num_tokens)
        return _join(causal, token_MN, spec)

    def keep() -> tuple[jax.Array, jax.Array]:
        return causal.out_KTGH, causal.lse_KTG

    return jax.lax.cond(jnp.any(image_start_M < num_tokens), join, keep)


def _join(
    causal: CausalAttention, token_MN: jax.Array, spec: AttentionSpec
) -> tuple[jax.Array, jax.Array]:
    own, own_lse = (
        each.at[:, token_MN].get(mode="clip").astype(_F32)
        for each in (causal.out_KTGH, causal.lse_KTG)
    )
    later, later_lse = _later(causal, token_MN, spec)
    share = jax.nn.sigmoid(later_lse - own_lse)
    out = own + (later - own) * share[..., None]
    lse = jnp.logaddexp(own_lse, later_lse)
    return (
        causal.out_KTGH.at[:, token_MN].set(out.astype(causal.out_KTGH.dtype), mode="drop"),
        causal.lse_KTG.at[:, token_MN].set(lse.astype(causal.lse_KTG.dtype), mode="drop"),
    )


def _later(
    causal: CausalAttention, token_MN: jax.Array, spec: AttentionSpec
) -> tuple[jax.Array, jax.Array]:
    """Attention over the later tokens of one's image [K, M, N, G, H], and its logarithms."""
    q = causal.q_KTGH.at[:, token_MN].get(mode="clip").astype(_F32) * spec.scale
    is_real_MN = token_MN < causal.q_KTGH.shape[1]
    kv = causal.kv_TK2H.at[token_MN].get(mode="clip").astype(_F32)
    # Another sequence's keys may be no numbers.
    kv = jnp.where(is_real_MN[..., None, None, None], kv, 0)
    scores = jnp.einsum("kmngh,mpkh->kmgnp", q, kv[:, :, :, 0])
    if spec.softcap is not None:
        scores = spec.softcap * jnp.tanh(scores / spec.softcap)
    place = jnp.arange(spec.image_tokens)
    is_later = (place > place[:, None]) & is_real_MN[:, None, None]
    scores = jnp.where(is_later, scores, _NEVER)
    lse = jax.nn.logsumexp(scores, axis=-1)
    weights = jnp.exp(scores - lse[..., None])
    out = jnp.einsum("kmgnp,mpkh->kmngh", weights, kv[:, :, :, 1])
    return out, lse.transpose(0, 1, 3, 2)
