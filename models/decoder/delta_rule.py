"""The gated delta rule (Yang et al., Gated Delta Networks, 2024): token by token, and by tiles.

A head's state S is a matrix [key, value]. Each token forgets a part of it, replaces what the state
has for the token's key by the token's value, in part, and reads it by the token's query:

    S = exp(log_decay) S;  S = S + k (beta (v - k^T S))^T;  out = q^T S

A tile is the same over several tokens at once, as products of matrices. Everything is float32.
Knows neither layers nor where states are kept.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.lax.linalg import triangular_solve

# Tokens of a tile. More make larger products and a system of equations that grows with the square.
TILE_TOKENS = 64
# On a TPU, products of float32 are otherwise made of bfloat16 parts.
_EXACT = jax.lax.Precision.HIGHEST
_NORM_EPS = 1e-6


class DeltaInputs(NamedTuple):
    """What the rule takes of T tokens, for each of N value heads.

    Queries and keys [T, N, key], of length one (queries divided by the root of `key`); values
    [T, N, value]; `log_decay_TN` at most 0; `beta_TN` from 0 to 1.
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    log_decay_TN: jax.Array
    beta_TN: jax.Array


def of_length_one(x: jax.Array) -> jax.Array:
    """Each vector of the last axis divided by its length."""
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + _NORM_EPS)


def delta_step(inputs: DeltaInputs, state_SNkv: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One token for each of S states: outputs [S, N, value], and the states after it."""
    state = state_SNkv * jnp.exp(inputs.log_decay_TN)[..., None, None]
    known = jnp.sum(state * inputs.k[..., None], axis=-2)
    change = (inputs.v - known) * inputs.beta_TN[..., None]
    state = state + inputs.k[..., None] * change[..., None, :]
    return jnp.sum(state * inputs.q[..., None], axis=-2), state


def delta_tile(inputs: DeltaInputs, state_Nkv: jax.Array) -> tuple[jax.Array, jax.Array]:
    """T tokens, one after another, of one state: outputs [T, N, value], and the state after them.

    A token of zeros, with no decay and beta 0, changes nothing.
    """
    q, k, v = (x.swapaxes(0, 1) for x in inputs[:3])
    beta, decay = inputs.beta_TN.T[..., None], jnp.cumsum(inputs.log_decay_TN.T, axis=1)
    tokens = jnp.arange(decay.shape[1])
    # What is left at token i of what was there at token j.
    left_NTT = jnp.where(tokens[:, None] >= tokens, decay[:, :, None] - decay[:, None], -jnp.inf)
    left_NTT, past = jnp.exp(left_NTT), jnp.exp(decay)[..., None]
    # What each token changes depends on what those before it have changed: a triangular system.
    system_NTT = _product(k * beta, k.swapaxes(1, 2)) * left_NTT
    own = (v - _product(k * past, state_Nkv)) * beta
    change = triangular_solve(system_NTT, own, left_side=True, lower=True, unit_diagonal=True)
    seen_NTT = _product(q, k.swapaxes(1, 2)) * left_NTT
    out = _product(q * past, state_Nkv) + _product(seen_NTT, change)
    last = decay[:, -1:]
    kept = k * jnp.exp(last - decay)[..., None]
    state = state_Nkv * jnp.exp(last)[..., None] + _product(kept.swapaxes(1, 2), change)
    return out.swapaxes(0, 1), state


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=_EXACT)
