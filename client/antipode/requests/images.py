"""The images of a message: files, bytes and URLs, read once, so that every try sends the same.

Decodes no image: the server reads what a file is off the file. Knows neither gRPC nor HTTP.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antipode.errors import InvalidRequestError

# How the files of the kinds that a server reads begin.
_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
}
_FORM = "bytes, a pathlib.Path, or a text that is a data: or https: URL"


@dataclass(frozen=True)
class Image:
    """An image: its file `data`, or else its `url`."""

    data: bytes = b""
    url: str = ""

    @property
    def media_type(self) -> str:
        """What the file is by its first bytes; empty if they are of no kind that a server reads."""
        found = (kind for start, kind in _SIGNATURES.items() if self.data.startswith(start))
        return next(found, "")

    def as_url(self) -> str:
        """The URL, or the file as one."""
        if self.url:
            return self.url
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode()}"


def read_image(part: Mapping[str, Any], where: str) -> Image:
    """The image of `{"type": "image", "image": ...}` or of OpenAI's `image_url` part."""
    name = "image" if part.get("type") == "image" else "image_url"
    value = part.get(name)
    if name == "image_url" and isinstance(value, Mapping):
        value = value.get("url")
    if isinstance(value, bytes | bytearray | memoryview):
        return _file(bytes(value), where)
    if isinstance(value, os.PathLike):
        return _file(_read(value, where), where)
    # A text is never a path: it may come from somebody who must not read this machine's files.
    if isinstance(value, str) and value[:8].lower().startswith(("data:", "http://", "https://")):
        return Image(url=value)
    raise InvalidRequestError(f"{where}.{name} must be {_FORM}")


def _file(data: bytes, where: str) -> Image:
    if not data:
        raise InvalidRequestError(f"{where} has an image without bytes")
    return Image(data=data)


def _read(path: os.PathLike[Any], where: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise InvalidRequestError(f"{where} has an image that cannot be read: {error}") from error
