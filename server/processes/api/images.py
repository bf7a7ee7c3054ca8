"""What an API process takes of images: by the checkpoint's files and by the operator's settings.

Reads no image. Knows neither protocols nor the engine.
"""

from __future__ import annotations

import logging
from pathlib import Path

from models.vision.image_format import ImageFormat, ImageFormatError, read_image_format
from server.api.images.image_reader import ImageLimits
from server.config.image_hosts import read_image_hosts
from server.config.server_config import ServerConfig

_log = logging.getLogger(__name__)


def image_format_of(checkpoint: Path, max_images: int) -> ImageFormat | None:
    """How the checkpoint's prompts have images; None if they have none that this server reads."""
    if max_images == 0:
        return None
    try:
        return read_image_format(checkpoint)
    except ImageFormatError as error:
        _log.warning("requests may have no images: %s", error)
        return None


def image_limits(config: ServerConfig) -> ImageLimits:
    """The operator's bounds on the images of a request."""
    return ImageLimits(
        max_bytes=config.max_image_bytes,
        max_request_bytes=config.max_request_image_bytes,
        max_pixels=config.max_image_pixels,
        hosts=read_image_hosts(config.allowed_image_hosts),
    )


def room_for_images(config: ServerConfig, image_format: ImageFormat | None) -> int:
    """How many bytes longer a body may be: base64 takes four characters for three bytes."""
    return 0 if image_format is None else config.max_request_image_bytes * 4 // 3
