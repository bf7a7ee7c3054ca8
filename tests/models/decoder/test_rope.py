from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from models.decoder.rope import (
    rope_frequencies,
    rope_tables,
    rotate_keys,
    rotate_queries,
    rotated_size,
)
from models.huggingface.config_file import parse_config
from tests.models import naive
from tests.models.checkpoints import LLAMA

PROPORTIONAL = {"rope_type": "proportional", "rope_theta": 1e4, "partial_rotary_factor": 0.25}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FORMS = {
    "default": LLAMA,
    "large base": LLAMA | {"rope_theta": 1e6, "head_dim": 32},
    "linear": LLAMA | {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "llama3": LLAMA | {"rope_scaling": LLAMA3, "head_dim": 32},
    "proportional": LLAMA | {"rope_parameters": PROPORTIONAL, "head_dim": 32},
}


def rotated(hf, x, positions):
    """Queries [T, heads, H], or [T, K, G, H], turned by their tokens' positions."""
    tables = rope_tables(parse_config(hf).rope, x.shape[-1], jnp.asarray(positions))
    heads_first = jnp.asarray(x).reshape(len(x), -1, 1, x.shape[-1]).transpose(1, 0, 2, 3)
    out = rotate_queries(heads_first, tables).transpose(1, 0, 2, 3)
    return np.asarray(out).reshape(x.shape)


@pytest.mark.parametrize("hf", FORMS.values(), ids=FORMS)
def test_rope_is_the_naive_rotation(hf):
    head_dim = hf.get("head_dim", 8)
    x = np.random.default_rng(0).standard_normal((50, 3, head_dim)).astype(np.float32)
    assert_allclose(rotated(hf, x, np.arange(50)), naive.rotate(hf, x), atol=2e-5)


def test_each_token_turns_by_its_own_position():
    x = np.random.default_rng(0).standard_normal((3, 2, 4, 8)).astype(np.float32)
    together = rotated(LLAMA, x, [7, 0, 100])
    apart = [rotated(LLAMA, x[i : i + 1], [position]) for i, position in enumerate([7, 0, 100])]
    assert_allclose(together, np.concatenate(apart), atol=1e-6)
    assert_allclose(together[1], x[1])


def test_a_product_depends_on_the_distance_alone():
    q, k = np.random.default_rng(0).standard_normal((2, 1, 1, 8)).astype(np.float32)
    near = rotated(LLAMA, q, [9])[0, 0] @ rotated(LLAMA, k, [4])[0, 0]
    far = rotated(LLAMA, q, [209])[0, 0] @ rotated(LLAMA, k, [204])[0, 0]
    assert near == pytest.approx(far, abs=1e-4)


def test_a_part_of_a_head_is_rotated_like_a_head_of_that_size():
    hf = LLAMA | {"architectures": ["Qwen3_5ForCausalLM"], "full_attention_interval": 2}
    rope = parse_config(hf | {"head_dim": 32, "partial_rotary_factor": 0.25}).rope
    x = np.random.default_rng(0).standard_normal((1, 9, 1, 32)).astype(np.float32)
    tables = rope_tables(rope, 32, jnp.arange(9))
    size = rotated_size(rope, 32)
    out = np.asarray(rotate_queries(jnp.asarray(x), tables, size))
    small = np.asarray(
        rotate_queries(
            jnp.asarray(x[..., :8]), rope_tables(replace(rope, part=1.0), 8, jnp.arange(9))
        )
    )
    assert size == 8
    assert_allclose(out[..., :8], small, atol=1e-6)
    assert_array_equal(out[..., 8:], x[..., 8:])


def test_bfloat16_is_rotated_in_float32():
    x = np.random.default_rng(0).standard_normal((4, 1, 8)).astype(jnp.bfloat16)
    out = rotated(LLAMA, jnp.asarray(x), np.arange(4))
    assert out.dtype == jnp.bfloat16
    exact = rotated(LLAMA, x.astype(np.float32), np.arange(4))
    assert_array_equal(out, exact.astype(jnp.bfloat16))


def test_keys_turn_as_queries_do_and_values_do_not():
    kv = np.random.default_rng(0).standard_normal((5, 3, 2, 8)).astype(np.float32)
    tables = rope_tables(parse_config(LLAMA).rope, 8, jnp.arange(5))
    out = np.asarray(rotate_keys(jnp.asarray(kv), tables))
    assert_allclose(out[:, :, 0], rotated(LLAMA, kv[:, :, 0], np.arange(5)), atol=1e-6)
    assert_array_equal(out[:, :, 1], kv[:, :, 1])


def test_of_a_proportional_rope_the_first_pairs_turn_and_the_others_do_not():
    plain = rope_frequencies(parse_config(LLAMA | {"head_dim": 32}).rope, 32)
    some = rope_frequencies(parse_config(FORMS["proportional"]).rope, 32)
    assert_array_equal(some[:4], plain[:4])
    assert not some[4:].any()


def test_llama3_keeps_short_wavelengths_and_stretches_long_ones():
    plain = rope_frequencies(parse_config(FORMS["llama3"] | {"rope_scaling": None}).rope, 32)
    scaled = rope_frequencies(parse_config(FORMS["llama3"]).rope, 32)
    turns = 64 * plain / (2 * np.pi)
    assert scaled.dtype == np.float32
    assert_allclose(scaled[turns > 4], plain[turns > 4])
    assert_allclose(scaled[turns < 1], plain[turns < 1] / 8)
    between = (turns > 1) & (turns < 4)
    assert between.any()
    assert np.all((scaled[between] < plain[between]) & (scaled[between] > plain[between] / 8))


def test_positions_far_out_keep_their_precision():
    """Float32 angles: an error of 2^-24 of 100,000 radians is about a hundredth of a radian."""
    rope = parse_config(LLAMA).rope
    tables = rope_tables(rope, 8, jnp.asarray([100_000]))
    angles = 100_000 * np.tile(rope_frequencies(rope, 8).astype(np.float64), 2)
    assert_allclose(np.asarray(tables.q_cos)[0, 0], np.cos(angles), atol=1e-2)
    assert_allclose(np.asarray(tables.q_sin)[0, 0], np.sin(angles), atol=1e-2)


# What transformers 5.23 computes for heads of 16 over a context of 64 (256 in the second).
YARN = {
    "plain": (
        {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        [1.0, 0.2371708, 0.05, 0.007905695, 0.0025, 0.0007905695, 0.00025, 7.905695e-05],
        1.138629436,
    ),
    "with every field": (
        {
            "rope_type": "yarn",
            "factor": 8.0,
            "mscale": 1.0,
            "mscale_all_dim": 0.5,
            "beta_fast": 16,
            "beta_slow": 2,
            "truncate": False,
        },
        [1.0, 0.2874086, 0.0424418, 0.003952847, 0.00125, 0.0003952847, 0.000125, 3.952847e-05],
        1.094179988,
    ),
}


@pytest.mark.parametrize(("scaling", "frequencies", "factor"), YARN.values(), ids=YARN)
def test_yarn_is_that_of_the_reference(scaling, frequencies, factor):
    rope = parse_config(LLAMA | {"head_dim": 16, "rope_scaling": scaling}).rope
    assert_allclose(rope_frequencies(rope, 16), frequencies, rtol=1e-6)
    assert rope.scaling.attention_factor == pytest.approx(factor)


def test_yarn_scales_queries_and_keys_but_no_values():
    rope = parse_config(LLAMA | {"head_dim": 16, "rope_scaling": YARN["plain"][0]}).rope
    tables = rope_tables(rope, 16, jnp.zeros(1, jnp.int32))
    assert_allclose(tables.q_cos, np.full((1, 1, 16), 1.138629436), rtol=1e-6)
    assert_allclose(tables.kv_cos[0, 0, 0], tables.q_cos[0, 0], rtol=1e-6)
    assert_array_equal(tables.kv_cos[0, 0, 1], np.ones(16))
