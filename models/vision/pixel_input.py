"""An image's pixels in the one shape in which a tower's program takes them. NumPy only.

Knows neither prompts nor how an image came to its size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.config import AnyVisionConfig, CellVisionConfig

type Grid = tuple[int, int]


def pixel_shape(vision: AnyVisionConfig) -> tuple[int, ...]:
    """The shape of every image's bytes.

    Of a square image [height, width, 3]; of one in cells [tokens, patches of a cell, values of a
    patch].
    """
    if isinstance(vision, CellVisionConfig):
        return vision.num_tokens, vision.cell_patches**2, 3 * vision.patch_size**2
    return vision.image_size, vision.image_size, 3


def packed_pixels(
    image_HWC: NDArray[np.uint8], vision: AnyVisionConfig
) -> tuple[NDArray[np.uint8], Grid]:
    """The bytes in that shape, with zeros after an image's cells, and its lines and columns."""
    if not isinstance(vision, CellVisionConfig):
        return image_HWC, (1, 1)
    size, side = vision.patch_size, vision.cell_patches
    lines, columns = (extent // (size * side) for extent in image_HWC.shape[:2])
    cut = image_HWC.reshape(lines, side, size, columns, side, size, 3)
    cells = cut.transpose(0, 3, 1, 4, 2, 5, 6).reshape(lines * columns, side**2, -1)
    packed = np.zeros(pixel_shape(vision), np.uint8)
    packed[: len(cells)] = cells
    return packed, (lines, columns)
