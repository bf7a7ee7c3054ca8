"""Reads the images of a request: fetches those that have an address, and decodes all.

Files are decoded in threads, a few at once, and what waits is bounded. Knows neither conversations
nor prompts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from server.api.images.addresses import image_address
from server.api.images.decoding import ImageError, ReadImage, read_image
from server.api.images.fetching import FetchError, Network, fetch
from server.api.images.image_format import ImageFormat
from server.api.images.sent_image import SentImage, refused
from server.errors import ApiError, ErrorKind

MAX_AT_ONCE = 2
# Bytes of the files of all requests that are fetched, wait for a thread, or are decoded.
MAX_WAITING_BYTES = 256 << 20
# A file of 50 kB may have the pixels of the largest image, which take a quarter of a second.
MAX_WAITING_IMAGES = 256
# For the addresses of one request: names, connections and files together.
FETCH_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """What images a request may have, and the hosts from which images are fetched.

    `max_bytes` is of one file, `max_request_bytes` of all files of a request.
    """

    max_bytes: int = 8 << 20
    max_request_bytes: int = 24 << 20
    max_pixels: int = 1 << 24
    hosts: frozenset[str] = frozenset()


class ImageReader:
    """One per API process, on its event loop."""

    def __init__(
        self, form: ImageFormat, limits: ImageLimits, network: Network | None = None
    ) -> None:
        self._form = form
        self._limits = limits
        self._network = network or Network()
        self._threads = ThreadPoolExecutor(MAX_AT_ONCE, "images")
        self._num_images = self._num_bytes = 0

    async def read(self, images: Sequence[SentImage]) -> list[ReadImage]:
        """The pixels of each image. ApiError for one that is too large or no image."""
        self._check_bytes(images)
        with self._waiting(len(images), self._bytes_to_hold(images)):
            return [await self._decoded(image) for image in await self._fetched(images)]

    @contextmanager
    def _waiting(self, num_images: int, num_bytes: int) -> Iterator[None]:
        """Count a request's images while they wait. ApiError for more than may wait.

        A request that waits alone may have any number of images: later there is no more room.
        """
        has_room = not self._num_images or self._num_images + num_images <= MAX_WAITING_IMAGES
        if not has_room or self._num_bytes + num_bytes > MAX_WAITING_BYTES:
            raise ApiError(
                ErrorKind.QUEUE_FULL, "too many images wait to be read; send them again later"
            )
        self._num_images += num_images
        self._num_bytes += num_bytes
        try:
            yield
        finally:
            self._num_images -= num_images
            self._num_bytes -= num_bytes

    def _bytes_to_hold(self, images: Sequence[SentImage]) -> int:
        """The most that the files may be. ApiError for an address that must not be fetched."""
        addresses = [image_address(image, self._limits.hosts) for image in images if image.url]
        return self._limits.max_request_bytes if addresses else _num_bytes(images)

    def _check_bytes(self, images: Sequence[SentImage]) -> None:
        limits, total = self._limits, 0
        for image in images:
            total += len(image.data)
            if len(image.data) > limits.max_bytes:
                raise refused(
                    image.where,
                    f"has an image of {len(image.data)} bytes; at most {limits.max_bytes} can be"
                    " read (--max-image-bytes)",
                )
            if total > limits.max_request_bytes:
                raise refused(
                    image.where,
                    f"brings the images to {total} bytes; one request may have"
                    f" {limits.max_request_bytes} (--max-request-image-bytes)",
                )

    async def _fetched(self, images: Sequence[SentImage]) -> list[SentImage]:
        """The images with their files, one after the other, all within one time."""
        files: list[SentImage] = []
        deadline = asyncio.get_running_loop().time() + FETCH_SECONDS
        for image in images:
            files.append(await self._fetch(image, deadline) if image.url else image)
            self._check_bytes(files)
        return files

    async def _fetch(self, image: SentImage, deadline: float) -> SentImage:
        address = image_address(image, self._limits.hosts)
        try:
            data = await fetch(address, self._limits.max_bytes, deadline, self._network)
        except FetchError as error:
            raise refused(image.where, f"has an image that {error}") from error
        return SentImage(where=image.where, data=data)

    async def _decoded(self, image: SentImage) -> ReadImage:
        work = partial(read_image, image.data, self._form, self._limits.max_pixels)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except ImageError as error:
            raise refused(image.where, str(error)) from error


def _num_bytes(images: Sequence[SentImage]) -> int:
    return sum(len(image.data) for image in images)
