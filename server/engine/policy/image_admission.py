"""Whether the images of a request are such as the model reads.

Knows sizes and places only; pixels are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from server.engine.policy.admission import AdmissionError
from server.link.frames import Submit
from server.link.images import PromptImage

_CHANNELS = 3


class Sizes(Protocol):
    """The sizes, height and width in pixels, at which the model reads images."""

    @property
    def num_tokens(self) -> int:
        """The most tokens of an image."""

    def tokens_of(self, size: tuple[int, int]) -> int | None:
        """The tokens of an image of this size; None for a size that the model does not read."""


@dataclass(frozen=True, slots=True)
class ReadableImage:
    """What the model reads: images of these sizes, with the tokens that these sizes say."""

    sizes: Sizes

    @property
    def num_tokens(self) -> int:
        """The most tokens of an image."""
        return self.sizes.num_tokens

    def __str__(self) -> str:
        return str(self.sizes)

    def matches(self, image: PromptImage) -> bool:
        has_all = len(image.pixels) == image.height * image.width * _CHANNELS
        return has_all and image.num_tokens == self.sizes.tokens_of((image.height, image.width))


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What images a prompt may have, and how many; None for a model that reads none."""

    readable: ReadableImage | None = None
    max_images: int = 0

    def check(self, submit: Submit) -> None:
        """Raise AdmissionError unless the engine can read the request's images, if it has any."""
        if not submit.images:
            return
        if self.readable is None:
            raise _refused("this model reads no images: send text only")
        if submit.pooling is not None:
            raise _refused("an embedding is made of text only: send no images")
        if (count := len(submit.images)) > self.max_images:
            raise _refused(f"{count} images are more than the {self.max_images} of a prompt")
        for image in submit.images:
            if not self.readable.matches(image):
                raise _refused(
                    f"an image of {image.width} x {image.height} pixels and {image.num_tokens} "
                    f"tokens is not what the model reads: {self.readable}"
                )
        _check_places(submit)


TEXT_ONLY = ImageLimits()


def _check_places(submit: Submit) -> None:
    end = 0
    for image in submit.images:
        if image.start < end or image.start + image.num_tokens > len(submit.prompt_token_ids):
            raise _refused("the tokens of an image lie outside the prompt, or overlap another's")
        end = image.start + image.num_tokens


def _refused(message: str) -> AdmissionError:
    return AdmissionError("invalid_request", message)
