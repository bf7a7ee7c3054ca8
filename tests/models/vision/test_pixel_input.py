"""An image's pixels cell by cell, patch by patch, and the places that the tower gives them."""

from __future__ import annotations

import numpy as np

from models.config import CellVisionConfig
from models.vision.cell_tower import places
from models.vision.pixel_input import packed_pixels, pixel_shape

VISION = CellVisionConfig(
    hidden_size=8,
    num_layers=1,
    num_heads=1,
    head_dim=8,
    mlp_size=8,
    patch_size=2,
    cell_patches=3,
    num_tokens=5,
    num_places=15,
    norm_eps=1e-6,
    rope_theta=100.0,
    standardizes=False,
    local_sight=True,
)


def test_every_patch_is_given_the_place_that_it_has_in_the_image():
    """A pixel's colour is its place, so the first pixel of a patch says where the patch is."""
    lines, columns = np.mgrid[0:12, 0:12].astype(np.uint8)
    image = np.stack([columns, lines, np.zeros_like(lines)], axis=-1)
    packed, grid = packed_pixels(image, VISION)
    assert packed.shape == pixel_shape(VISION) == (5, 9, 12)
    assert grid == (2, 2)
    found = places(np.array(grid), VISION)
    first_pixels = packed.reshape(-1, 12)[:, :2]
    assert np.array_equal(np.asarray(found.place_P2)[:36], first_pixels[:36] // 2)
    assert np.asarray(found.is_real_P).tolist() == [True] * 36 + [False] * 9
    assert not packed[4].any()
