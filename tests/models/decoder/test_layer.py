"""The norms of queries and keys: steps of few and of many tokens make the same of them."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.testing import assert_allclose

from models.decoder import layer as under_test
from models.decoder.layer import DecoderLayer
from models.decoder.rope import rope_tables
from models.huggingface.config_file import parse_config
from tests.models.checkpoints import LLAMA
from tests.models.paged import make_layout

TOKENS = 6
QWEN = parse_config(LLAMA | {"architectures": ["Qwen3ForCausalLM"]})


@pytest.fixture(params=[False, True], ids=["values as they are", "values normed too"])
def heads(request, monkeypatch):
    """Queries, and keys with values, in the form for steps of so many tokens and more."""
    config = replace(QWEN, qk_norm=True, value_norm=request.param)
    layer = DecoderLayer(nnx.Rngs(1), config, make_layout())
    for seed, norm in enumerate((layer.q_norm, layer.k_norm)):
        norm.scale[...] = jax.random.uniform(jax.random.key(seed), norm.scale.shape) + 0.5
    x_TD = jax.random.normal(jax.random.key(2), (TOKENS, config.hidden_size))
    norm_T1 = jnp.linspace(0.5, 2.0, TOKENS)[:, None]
    rope = rope_tables(config.rope, config.head_dim, 3 + 7 * jnp.arange(TOKENS))

    def make(many_tokens):
        monkeypatch.setattr(under_test, "MANY_TOKENS", many_tokens)
        return layer._heads(x_TD, norm_T1, rope, None)

    return make


def test_few_and_many_tokens_get_the_same_heads(heads):
    for few, many in zip(heads(TOKENS + 1), heads(TOKENS), strict=True):
        assert np.abs(few).min() > 0
        assert_allclose(many, few, rtol=2e-5, atol=1e-6)
