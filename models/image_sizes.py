"""At what size a model reads an image, and as how many tokens.

A model reads all images as one square, or each in whole cells and about its own aspect ratio. Sizes
are heights and widths in pixels. Knows neither pixels nor prompts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

type Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class SquareSizes:
    """Every image has `side` x `side` pixels and is `num_tokens` tokens."""

    side: int
    num_tokens: int

    @property
    def least_tokens(self) -> int:
        return self.num_tokens

    @property
    def most_pixels(self) -> int:
        return self.side**2

    def size_of(self, size: Size) -> Size:
        """The size at which an image of this size is read."""
        return self.side, self.side

    def tokens_of(self, size: Size) -> int | None:
        """The tokens of an image at the size at which it is read; None for any other size."""
        return self.num_tokens if size == (self.side, self.side) else None

    def __str__(self) -> str:
        return f"{self.side} x {self.side} and {self.num_tokens}"


@dataclass(frozen=True, slots=True)
class CellSizes:
    """An image has whole cells of `cell` x `cell` pixels, each of them a token.

    It has as many cells of about its aspect ratio as `num_tokens` allows (transformers,
    get_aspect_ratio_preserving_size), and so at least half as many.
    """

    cell: int
    num_tokens: int

    @property
    def least_tokens(self) -> int:
        return max(1, self.num_tokens // 2)

    @property
    def most_pixels(self) -> int:
        return self.num_tokens * self.cell**2

    def size_of(self, size: Size) -> Size:
        """The size at which an image of this size is read."""
        height, width = size
        factor = math.sqrt(self.most_pixels / (height * width))
        lines = math.floor(factor * height / self.cell)
        columns = math.floor(factor * width / self.cell)
        if lines == 0:
            lines, columns = 1, min(width // height, self.num_tokens)
        elif columns == 0:
            lines, columns = min(height // width, self.num_tokens), 1
        return lines * self.cell, columns * self.cell

    def tokens_of(self, size: Size) -> int | None:
        """The tokens of an image at the size at which it is read; None for any other size."""
        lines, columns = (side // self.cell for side in size)
        is_whole = size == (lines * self.cell, columns * self.cell)
        is_read = is_whole and self.least_tokens <= lines * columns <= self.num_tokens
        return lines * columns if is_read else None

    def __str__(self) -> str:
        return f"whole {self.cell} x {self.cell} cells and at most {self.num_tokens}"


type ImageSizes = SquareSizes | CellSizes
