"""Heads are normed as they turn: the same as a norm by itself and a rotation after it."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.testing import assert_allclose

from models.decoder.layer import DecoderLayer, Kind
from models.decoder.parallel import Residual
from models.decoder.rope import rope_tables, rotate_keys, rotate_queries
from models.huggingface.config_file import parse_config
from tests.models.checkpoints import LLAMA
from tests.models.paged import make_layout

TOKENS = 6
QWEN = parse_config(LLAMA | {"architectures": ["Qwen3ForCausalLM"]})


@pytest.mark.parametrize("value_norm", [False, True], ids=["values as they are", "values normed"])
@pytest.mark.parametrize("part", [1.0, 0.5], ids=["whole heads", "halves of heads"])
def test_heads_are_normed_and_then_turned(value_norm, part):
    turned = replace(QWEN.rope, part=part)
    config = replace(QWEN, qk_norm=True, value_norm=value_norm, rope=turned, local_rope=turned)
    layer = DecoderLayer(nnx.Rngs(1), config, make_layout())
    for seed, norm in enumerate((layer.q_norm, layer.k_norm)):
        norm.scale[...] = jax.random.uniform(jax.random.key(seed), norm.scale.shape) + 0.5
    x_TD = jax.random.normal(jax.random.key(2), (TOKENS, config.hidden_size))
    norm_T1 = jnp.linspace(0.5, 2.0, TOKENS)[:, None]
    rope = rope_tables(config.rope, config.head_dim, 3 + 7 * jnp.arange(TOKENS))

    size, kind = int(part * config.head_dim), Kind(None, None, Residual(False))

    q, kv, _ = layer.projections.heads(x_TD, norm_T1)
    keys, values = layer.k_norm(kv[:, :, 0]), kv[:, :, 1]
    if value_norm:
        values = values / np.sqrt(np.mean(values**2, axis=-1, keepdims=True) + config.rms_norm_eps)
    expected = (
        rotate_queries(layer.q_norm(q), rope, size),
        rotate_keys(jnp.stack([keys, values], axis=2), rope, size),
    )
    for made, wanted in zip(layer._rotated(q, kv, rope, kind), expected, strict=True):
        assert np.abs(wanted).min() > 0
        assert_allclose(made, wanted, rtol=2e-5, atol=1e-6)
