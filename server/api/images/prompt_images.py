"""The images of prompts: how many there may be, their pixels, and their places among the tokens.

Refuses them all where the model reads none. Knows neither protocols nor chat templates.
"""

from __future__ import annotations

from collections.abc import Sequence

from server.api.images.decoding import ReadImage
from server.api.images.image_format import ImageFormat
from server.api.images.image_reader import ImageLimits, ImageReader
from server.api.images.placing import image_starts, prompt_images
from server.api.images.sent_image import SentImage, refused
from server.link.frames import EngineInfo
from server.link.images import PromptImage

# A frame to the engine must hold the pixels of all images of a prompt, and its tokens.
_MAX_PIXEL_BYTES = 192 << 20
_CHANNELS = 3


class PromptImages:
    """One per API process, on its event loop. Without `form` the model reads only text."""

    def __init__(self, form: ImageFormat | None, limits: ImageLimits) -> None:
        self._form = form
        self._reader = None if form is None else ImageReader(form, limits)

    def check(self, images: Sequence[SentImage], info: EngineInfo) -> None:
        """ApiError for more images than a prompt may have."""
        if not images:
            return
        if self._form is None or info.max_images == 0:
            raise refused(images[0].where, "is an image, but this model reads only text")
        bytes_each = self._form.sizes.most_pixels * _CHANNELS
        most = min(info.max_images, _MAX_PIXEL_BYTES // bytes_each)
        if len(images) > most:
            raise refused(
                images[most].where,
                f"is image {most + 1} of {len(images)}; a prompt may have {most}",
            )

    @property
    def vary(self) -> bool:
        """Whether an image must be read to know how many tokens it is."""
        sizes = None if self._form is None else self._form.sizes
        return sizes is not None and sizes.least_tokens < sizes.num_tokens

    def least_tokens(self, images: Sequence[SentImage]) -> int:
        """How many tokens of a prompt the images are, at least."""
        return 0 if self._form is None else len(images) * self._form.sizes.least_tokens

    async def read(self, images: Sequence[SentImage]) -> list[ReadImage]:
        """The pixels of images that were checked. ApiError for one that cannot be read."""
        return [] if self._reader is None or not images else await self._reader.read(images)

    def starts(
        self, images: Sequence[ReadImage], token_ids: tuple[int, ...], info: EngineInfo
    ) -> tuple[int, ...]:
        """The places of the images among a prompt's tokens. ApiError for tokens of another image.

        A model that reads no images may take these tokens for text.
        """
        if self._form is None or info.max_images == 0:
            return ()
        return image_starts(token_ids, [image.num_tokens for image in images], self._form)

    def placed(self, images: Sequence[ReadImage], starts: Sequence[int]) -> list[PromptImage]:
        """As the engine takes them."""
        return [] if self._form is None else prompt_images(images, starts)
