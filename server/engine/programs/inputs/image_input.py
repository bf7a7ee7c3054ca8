"""Packs one image of each data rank for the program that makes rows of it. NumPy only."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from models.config import AnyVisionConfig
from models.vision.pixel_input import packed_pixels, pixel_shape
from server.link.images import PromptImage

# NumPy on the way in, traced inside the program.
type Array = Any


class ImageInput(NamedTuple):
    """RGB bytes in the tower's shape, and the image's number in the step, beyond all for no image.

    `grid` is how many lines and columns of cells it has. Where there are several data ranks, each
    has an axis of them in front.
    """

    pixels: Array
    number: Array
    grid: Array


def pack_image(image: PromptImage | None, vision: AnyVisionConfig, number: int) -> ImageInput:
    """An image of one rank; None is black."""
    if image is None:
        black = np.zeros(pixel_shape(vision), np.uint8)
        return ImageInput(black, np.int32(number), np.ones(2, np.int32))
    pixels = np.frombuffer(image.pixels, np.uint8).reshape(image.height, image.width, 3)
    packed, grid = packed_pixels(pixels, vision)
    return ImageInput(packed, np.int32(number), np.array(grid, np.int32))


def stack_images(inputs: list[ImageInput]) -> ImageInput:
    """One input of all ranks' inputs, in the ranks' order; of one rank alone, as it is."""
    if len(inputs) == 1:
        return inputs[0]
    return ImageInput(*map(np.stack, zip(*inputs, strict=True)))
