"""An image as a client sent it: its file, or the address of its file.

Reads what requests hold of an image: `data:` URLs, base64 and addresses. What is none is refused by
its place in the request. Decodes no image and fetches none.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass

from server.errors import ApiError, ErrorKind

MEDIA_TYPES = "image/png, image/jpeg, image/webp or image/gif"
# Decoding holds the interpreter's lock: this many characters take less than a millisecond.
_PIECE_CHARS = 1 << 18
_BLANKS = b" \t\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class SentImage:
    """An image at its place `where` in the request: the file `data`, or else the address `url`."""

    where: str
    data: bytes = b""
    url: str = ""


def refused(where: str, reason: str) -> ApiError:
    """The error of an image that is the client's to mend."""
    return ApiError(ErrorKind.INVALID_REQUEST, f"{where} {reason}", param=where)


def image_of_url(url: str, where: str) -> SentImage:
    """An image by its `data:` URL or its address. ApiError for any other URL."""
    scheme, _, rest = url.partition(":")
    match scheme.lower():
        case "data":
            return _of_data_url(rest, where)
        case "http" | "https":
            return SentImage(where=where, url=url)
    raise refused(
        where, f"has a URL that begins with {url[:16]!r}; send data:image/png;base64,... instead"
    )


def image_of_base64(text: str, media_type: str, where: str) -> SentImage:
    """An image by its base64. `media_type` only must name an image: the file itself says which."""
    check_media_type(media_type, where)
    return SentImage(where=where, data=_decoded(text, where))


def image_of_bytes(data: bytes, media_type: str, where: str) -> SentImage:
    """An image by its file."""
    check_media_type(media_type, where)
    if not data:
        raise refused(where, "has an image without bytes")
    return SentImage(where=where, data=data)


def check_media_type(media_type: str, where: str) -> None:
    """Refuse what the client itself says is no image; an empty type says nothing."""
    kind = media_type.strip().lower()
    if kind and kind != "application/octet-stream" and not kind.startswith("image/"):
        raise refused(where, f"has the media type {media_type[:64]!r}; it must be {MEDIA_TYPES}")


def _of_data_url(rest: str, where: str) -> SentImage:
    head, comma, text = rest.partition(",")
    media_type, *parameters = head.split(";")
    if not comma or not parameters or parameters[-1].strip().lower() != "base64":
        raise refused(where, "has a data: URL without base64; send data:image/png;base64,...")
    return image_of_base64(text, media_type, where)


def _decoded(text: str, where: str) -> bytes:
    """The bytes. Blanks may stand anywhere, as in the base64 of mails; anything else is refused."""
    try:
        plain = text.encode("ascii")
        if any(blank in plain for blank in _BLANKS):
            plain = plain.translate(None, _BLANKS)
        if b"=" in plain[:-2]:
            raise ValueError("padding in the middle")
        pieces = range(0, len(plain), _PIECE_CHARS)
        data = b"".join(
            binascii.a2b_base64(plain[at : at + _PIECE_CHARS], strict_mode=True) for at in pieces
        )
    except ValueError:
        raise refused(where, "has an image that is no valid base64") from None
    if not data:
        raise refused(where, "has an image without bytes")
    return data
