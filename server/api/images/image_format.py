"""What the API must know of a model's images: their texts in a prompt, and the pixels it reads.

A checkpoint's files say it. Knows no family of models.
"""

from __future__ import annotations

from typing import Protocol


class ImageFormat(Protocol):
    """One image is `num_tokens` tokens `token_id` of a prompt, and `height` by `width` pixels.

    The chat template writes `placeholder` for an image, and the tokenizer gets `expansion` in its
    place. `start`, `token` and `end` are the texts of the control tokens in the expansion.
    `resample` is Pillow's number of the filter by which an image is resized.
    """

    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def resample(self) -> int: ...
    @property
    def num_tokens(self) -> int: ...
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
    @property
    def expansion(self) -> str: ...
