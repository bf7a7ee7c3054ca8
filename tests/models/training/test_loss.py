from __future__ import annotations

import jax
import numpy as np
import pytest
from flax import nnx

from models.training.figures import load_model
from models.training.loss import causal_attention, nats, one_device
from tests.models import naive
from tests.models.checkpoints import LLAMA, write_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    return folder, write_checkpoint(folder)


@pytest.fixture(scope="module")
def cost(checkpoint):
    graphdef, weights = nnx.split(load_model(checkpoint[0]))
    compiled = one_device(lambda weights, tokens: nats(nnx.merge(graphdef, weights), tokens))
    return lambda tokens: np.asarray(compiled(weights, tokens))


def windows(length, count=2):
    draw = np.random.default_rng(0).integers(0, LLAMA["vocab_size"], (count, length))
    return draw.astype(np.int32)


def naive_nats(tensors, tokens):
    logits = naive.forward(LLAMA, tensors, tokens[:-1])
    logits -= logits.max(-1, keepdims=True)
    return np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(logits)), tokens[1:]]


@pytest.mark.parametrize("length", [2, 40, 65, 151])
def test_every_token_costs_what_the_naive_forward_says(checkpoint, cost, length):
    tokens = windows(length)
    expected = [naive_nats(checkpoint[1], window.tolist()) for window in tokens]
    np.testing.assert_allclose(cost(tokens), expected, rtol=1e-4, atol=1e-4)


def test_no_token_sees_a_later_one(cost):
    tokens = windows(100)
    changed = tokens.copy()
    changed[:, 70:] += 1
    same, other = cost(tokens), cost(changed)
    assert np.array_equal(same[:, :69], other[:, :69])
    assert not np.allclose(same[:, 69:], other[:, 69:])


def test_windows_do_not_see_each_other(cost):
    tokens = windows(40)
    changed = tokens.copy()
    changed[1] = 0
    assert np.array_equal(cost(tokens)[0], cost(changed)[0])


def test_the_first_token_attends_to_itself_alone():
    q, k, v = (
        jax.random.normal(jax.random.key(i), shape)
        for i, shape in enumerate([(1, 3, 2, 2, 4), (1, 3, 2, 4), (1, 3, 2, 4)])
    )
    out = causal_attention(q, k, v, 0.5)
    np.testing.assert_allclose(out[0, 0, :, 0], v[0, 0], rtol=1e-6)
    np.testing.assert_allclose(out[0, 0, :, 1], v[0, 0], rtol=1e-6)
