"""The gated delta rule: token by token and by tiles, against a plain loop in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from models.decoder.delta_rule import DeltaInputs, delta_step, delta_tile, of_length_one

HEADS, KEY, VALUE = 3, 8, 5


def naive(inputs, state):
    """Outputs [T, N, value] and the last state, by the rule as it is written, in float64."""
    q, k, v, decay, beta = (np.asarray(x, np.float64) for x in inputs)
    state, out = np.array(state, np.float64), np.zeros(v.shape)
    for t in range(len(v)):
        for n in range(v.shape[1]):
            held = state[n] * np.exp(decay[t, n])
            held = held + np.outer(k[t, n], beta[t, n] * (v[t, n] - k[t, n] @ held))
            out[t, n], state[n] = q[t, n] @ held, held
    return out, state


def draw(num_tokens, seed=0, *, alike=False):
    rng = np.random.default_rng(seed)
    q, k = (rng.standard_normal((num_tokens, HEADS, KEY)).astype(np.float32) for _ in range(2))
    if alike:  # The hardest case: each token overwrites the one before, and nothing is forgotten.
        k[:] = k[:1]
    v = rng.standard_normal((num_tokens, HEADS, VALUE)).astype(np.float32)
    decay = -rng.uniform(0, 0 if alike else 2, (num_tokens, HEADS)).astype(np.float32)
    beta = rng.uniform(0.99 if alike else 0, 1, (num_tokens, HEADS)).astype(np.float32)
    q, k = (np.asarray(of_length_one(jnp.asarray(x))) for x in (q, k))
    state = rng.standard_normal((HEADS, KEY, VALUE)).astype(np.float32)
    return DeltaInputs(q, k, v, decay, beta), state


@pytest.mark.parametrize("alike", [False, True], ids=["random", "one key"])
@pytest.mark.parametrize("num_tokens", [1, 2, 17, 64])
def test_a_tile_is_its_tokens_one_after_another(num_tokens, alike):
    inputs, state = draw(num_tokens, alike=alike)
    expected, last = naive(inputs, state)
    out, found = delta_tile(jax.tree.map(jnp.asarray, inputs), jnp.asarray(state))
    assert_allclose(out, expected, atol=2e-5)
    assert_allclose(found, last, atol=2e-5)


def test_a_step_is_one_token_of_every_row():
    rows = [draw(1, seed) for seed in range(4)]
    inputs = DeltaInputs(
        *(np.concatenate(each) for each in zip(*(one for one, _ in rows), strict=True))
    )
    out, states = delta_step(
        jax.tree.map(jnp.asarray, inputs), jnp.asarray(np.stack([state for _, state in rows]))
    )
    for row, (of_row, state) in enumerate(rows):
        expected, last = naive(of_row, state)
        assert_allclose(out[row], expected[0], atol=1e-5)
        assert_allclose(states[row], last, atol=1e-5)


def test_tiles_may_be_cut_anywhere():
    inputs, state = draw(50)
    whole, last = delta_tile(jax.tree.map(jnp.asarray, inputs), jnp.asarray(state))
    first, held = delta_tile(
        jax.tree.map(lambda x: jnp.asarray(x[:13]), inputs), jnp.asarray(state)
    )
    rest, found = delta_tile(jax.tree.map(lambda x: jnp.asarray(x[13:]), inputs), held)
    assert_allclose(np.concatenate([first, rest]), whole, atol=1e-5)
    assert_allclose(found, last, atol=1e-5)


def test_a_token_of_zeros_changes_nothing():
    inputs, state = draw(9)
    padded = jax.tree.map(lambda x: jnp.pad(x, ((0, 7), *((0, 0),) * (x.ndim - 1))), inputs)
    out, found = delta_tile(jax.tree.map(jnp.asarray, inputs), jnp.asarray(state))
    with_padding, same = delta_tile(padded, jnp.asarray(state))
    assert_allclose(with_padding[:9], out, atol=1e-6)
    assert_allclose(same, found, atol=1e-6)
