"""Which tokens of a step are an image's, what stands in their place, and how far they see."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from models.vision.step_images import StepImages

POSITIONS = jnp.array([7, 0, 1, 2, 3, 4, 30, 31, 32, 33, 0, 0])
NONE = len(POSITIONS)


def images(*starts, num_tokens=3):
    rows = 100 + np.arange(len(starts) * num_tokens).reshape(len(starts), num_tokens, 1)
    return StepImages(jnp.array(rows, jnp.float32), jnp.array(starts))


def test_rows_stand_in_the_places_of_their_tokens():
    found = images(2, 6).put(jnp.zeros((NONE, 1)))
    assert found[:, 0].tolist() == [0, 0, 100, 101, 102, 0, 103, 104, 105, 0, 0, 0]


def test_a_token_of_an_image_sees_to_its_end_and_any_other_to_itself():
    found = images(2, 6).last_seen(POSITIONS)
    assert found.tolist() == [7, 0, 3, 3, 3, 4, 32, 32, 32, 33, 0, 0]


@pytest.mark.parametrize("starts", [(NONE,), (NONE, NONE)])
def test_no_image_changes_nothing(starts):
    x = jnp.arange(NONE, dtype=jnp.float32)[:, None]
    assert_array_equal(images(*starts).put(x), x)
    assert_array_equal(images(*starts).last_seen(POSITIONS), POSITIONS)


def test_an_image_may_end_with_the_step():
    assert images(9, NONE).last_seen(jnp.arange(12)).tolist()[9:] == [11, 11, 11]
