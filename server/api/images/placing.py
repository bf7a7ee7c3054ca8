"""Where the images of a prompt are among its tokens.

Knows neither the text of a prompt nor how an image came.
"""

from __future__ import annotations

from collections.abc import Sequence

from server.api.images.decoding import ReadImage
from server.api.images.image_format import ImageFormat
from server.errors import ApiError, ErrorKind
from server.link.images import PromptImage


def image_starts(
    token_ids: tuple[int, ...], image_tokens: Sequence[int], form: ImageFormat
) -> tuple[int, ...]:
    """The place of the first soft token of each image, which have so many tokens.

    ApiError if there are not these images. Only an image has soft tokens: the text of a message
    never becomes one.
    """
    if not image_tokens and form.token_id in token_ids:
        raise _invalid(
            f"the prompt holds the token {form.token_id}, which stands for an image; send images as"
            " parts of messages"
        )
    starts: list[int] = []
    place = _find(token_ids, form.token_id, 0)
    while place is not None:
        expected = image_tokens[len(starts)] if len(starts) < len(image_tokens) else None
        end = _end(token_ids, form.token_id, place)
        if expected is not None and end - place != expected:
            raise _invalid(f"the prompt has part of an image at its token {place}")
        starts.append(place)
        place = _find(token_ids, form.token_id, end)
    if len(starts) != len(image_tokens):
        raise _invalid(
            f"the prompt has places for {len(starts)} images, but the messages have"
            f" {len(image_tokens)}; send the messages of the first request"
        )
    return tuple(starts)


def prompt_images(images: Sequence[ReadImage], starts: Sequence[int]) -> list[PromptImage]:
    """The images at their places, as the engine takes them."""
    return [
        PromptImage(
            start=start,
            num_tokens=image.num_tokens,
            height=image.height,
            width=image.width,
            pixels=image.pixels,
            digest=image.digest,
        )
        for image, start in zip(images, starts, strict=True)
    ]


def _find(token_ids: tuple[int, ...], token_id: int, start: int) -> int | None:
    try:
        return token_ids.index(token_id, start)
    except ValueError:
        return None


def _end(token_ids: tuple[int, ...], token_id: int, start: int) -> int:
    """The place after the last of the same tokens from `start` on."""
    return next(
        (i for i in range(start, len(token_ids)) if token_ids[i] != token_id), len(token_ids)
    )


def _invalid(message: str) -> ApiError:
    return ApiError(ErrorKind.INVALID_REQUEST, message, param="prompt")
