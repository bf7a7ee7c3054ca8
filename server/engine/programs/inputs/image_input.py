"""Packs one image of each data rank for the program that makes rows of it. NumPy only."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from server.link.images import PromptImage

# NumPy on the way in, traced inside the program.
type Array = Any


class ImageInput(NamedTuple):
    """RGB bytes [height, width, 3], and the image's number in the step, beyond all for no image.

    Where there are several data ranks, both have an axis of them in front.
    """

    pixels_HWC: Array
    number: Array


def pack_image(image: PromptImage | None, side: int, number: int) -> ImageInput:
    """An image of one rank, of `side` x `side` pixels; None is black."""
    shape = side, side, 3
    if image is None:
        return ImageInput(np.zeros(shape, np.uint8), np.int32(number))
    return ImageInput(np.frombuffer(image.pixels, np.uint8).reshape(shape), np.int32(number))


def stack_images(inputs: list[ImageInput]) -> ImageInput:
    """One input of all ranks' inputs, in the ranks' order; of one rank alone, as it is."""
    if len(inputs) == 1:
        return inputs[0]
    return ImageInput(*map(np.stack, zip(*inputs, strict=True)))
