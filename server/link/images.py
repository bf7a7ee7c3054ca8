"""The images of a prompt, on their way from the API to the model.

Knows neither how an image was sent nor how a model reads it.
"""

from __future__ import annotations

import msgspec


class PromptImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image whose soft tokens are `prompt_token_ids[start : start + num_tokens]`.

    `pixels` are RGB bytes in the order [height, width, 3], already at the size that the model
    reads. `digest` is of the pixels: equal images have equal KV, whatever request sent them.
    """

    start: int
    num_tokens: int
    height: int
    width: int
    pixels: bytes
    digest: bytes
