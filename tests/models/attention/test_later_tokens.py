"""Tokens of images that see all of their image, by both ways: a mask, and a part joined later.

The kernel that leaves its sums' logarithms runs on TPU only; here float64 leaves them.
"""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from models.attention.later_tokens import CausalAttention, with_later_tokens
from models.vision.step_images import StepImages
from tests.models.attention.ragged import (
    MAX_TOKENS,
    chunk,
    decode,
    make_spec,
    make_step,
    naive_attention,
    naive_softmax,
)
from tests.models.attention.test_xla import attend

# Places in the step: two images in the second row, one at the end of the third.
ROWS = [decode(9), chunk(11, 40), chunk(0, 30)]
STARTS = (3, 20, 61)
NONE = MAX_TOKENS
SPECS = [
    make_spec(image_tokens=10),
    make_spec(image_tokens=10, window=6),
    make_spec(image_tokens=10, window=20, softcap=2.0),
]


def causal(spec, step):
    out, lse = naive_softmax(spec, step)
    return CausalAttention(*map(jnp.asarray, (out, lse, step.q_KTGH, step.kv_TK2H)))


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_mask_lets_tokens_of_an_image_see_all_of_it(spec):
    step = make_step(spec, ROWS)
    images = StepImages(jnp.zeros((4, 10, 1)), jnp.array([*STARTS, NONE]))
    ragged = step.ragged._replace(last_seen_T=images.last_seen(step.ragged.positions_T))
    out, _ = attend(spec, replace(step, ragged=ragged))
    assert_allclose(out, naive_attention(spec, step, STARTS), atol=1e-5)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_later_tokens_joined_to_a_causal_softmax_are_the_whole_one(spec):
    step = make_step(spec, ROWS)
    found = with_later_tokens(causal(spec, step), jnp.array([*STARTS, NONE]), spec)
    for part, expected in zip(found, naive_softmax(spec, step, STARTS), strict=True):
        assert_allclose(part, expected, atol=1e-5)


def test_a_step_without_images_is_left_as_it_is():
    step = make_step(SPECS[0], ROWS)
    before = causal(SPECS[0], step)
    out, lse = with_later_tokens(before, jnp.array([NONE] * 3), SPECS[0])
    assert_array_equal(out, before.out_KTGH)
    assert_array_equal(lse, before.lse_KTG)


def test_causal_attention_alone_is_another():
    step = make_step(SPECS[0], ROWS)
    images, alone = (naive_attention(SPECS[0], step, starts) for starts in (STARTS, ()))
    assert np.abs(images - alone).max() > 0.1
