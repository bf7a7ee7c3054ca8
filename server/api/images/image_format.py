"""What the API must know of a model's images: their texts in a prompt, and the pixels it reads.

A checkpoint's files say it. Knows no family of models.
"""

from __future__ import annotations

from typing import Protocol

type Size = tuple[int, int]


class Sizes(Protocol):
    """The sizes, height and width in pixels, at which a model reads images, and their tokens."""

    @property
    def num_tokens(self) -> int:
        """The most tokens of an image."""

    @property
    def least_tokens(self) -> int:
        """The fewest tokens of an image."""

    @property
    def most_pixels(self) -> int:
        """The most pixels of an image that is read."""

    def size_of(self, size: Size) -> Size:
        """The size at which an image of this size is read."""

    def tokens_of(self, size: Size) -> int | None:
        """The tokens of an image at the size at which it is read; None for any other size."""


class ImageFormat(Protocol):
    """An image is some tokens `token_id` of a prompt; its size says how many.

    The chat template writes `placeholder` for an image, and the tokenizer gets `expansion` in its
    place. `start`, `token` and `end` are the texts of the control tokens in the expansion.
    `resample` is Pillow's number of the filter by which an image is resized.
    """

    @property
    def sizes(self) -> Sizes: ...
    @property
    def resample(self) -> int: ...
    @property
    def token_id(self) -> int: ...
    @property
    def token(self) -> str: ...
    @property
    def start(self) -> str: ...
    @property
    def end(self) -> str: ...
    @property
    def placeholder(self) -> str: ...

    def expansion(self, num_tokens: int) -> str: ...
