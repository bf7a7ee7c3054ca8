"""The pixels that a model reads of an image's file, as transformers makes them of the same file.

What a file is, is found by decoding it. Its size is checked before its pixels are decoded. Knows
neither requests nor how the file came.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from io import BytesIO

from PIL import GifImagePlugin, Image, ImageOps, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from server.api.images.image_format import ImageFormat
from server.api.images.jpeg_scans import has_more_scans

# Imported by name, so that no other plugin is looked for while a request waits.
_PLUGINS = (GifImagePlugin, JpegImagePlugin, PngImagePlugin, WebPImagePlugin)
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
_NO_IMAGE = "has an image that is no PNG, JPEG, WebP or GIF"
# As many as a JPEG or GIF may have. For millions of lines, or of pixels in a line, Pillow holds
# the interpreter's lock for some tenths of a second.
_MAX_SIDE = 65_535
# A progressive JPEG has about ten.
_MAX_SCANS = 100


class ImageError(ValueError):
    """A file that is not read as an image; the message goes on from the image's place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadImage:
    """RGB bytes in the order [height, width, 3], and a digest of them and their shape.

    In a prompt, the image is `num_tokens` tokens.
    """

    height: int
    width: int
    num_tokens: int
    pixels: bytes
    digest: bytes


def read_image(data: bytes, form: ImageFormat, max_pixels: int) -> ReadImage:
    """The first frame of a file, upright, in RGB, at the model's size. Raises ImageError.

    As `load_image` and the PIL image processors of transformers: an alpha channel is dropped, and a
    colour that stands for transparency becomes white.
    """
    image = _opened(data, max_pixels)
    try:
        ImageOps.exif_transpose(image, in_place=True)
        rgb = _on_white(image.convert("RGB"))
        height, width = form.sizes.size_of((rgb.height, rgb.width))
        resized = rgb.resize((width, height), Image.Resampling(form.resample))
    # Pillow raises many kinds of exception for files that are damaged.
    except Exception as error:
        raise ImageError("has an image that is damaged or cut short") from error
    num_tokens = form.sizes.tokens_of((height, width))
    assert num_tokens is not None, "every image is resized to a size that the model reads"
    pixels = resized.tobytes()
    return ReadImage(
        height=height,
        width=width,
        num_tokens=num_tokens,
        pixels=pixels,
        digest=hashlib.sha256(f"{height}x{width}:".encode() + pixels).digest(),
    )


def _on_white(rgb: Image.Image) -> Image.Image:
    """`rgb` with white in place of the colour that its file calls transparent, if it does."""
    if rgb.info.get("transparency") is None:
        return rgb
    background = Image.new("RGBA", rgb.size, "white")
    return Image.alpha_composite(background, rgb.convert("RGBA")).convert("RGB")


def _opened(data: bytes, max_pixels: int) -> Image.Image:
    """The image with its header read, and no more."""
    try:
        image = Image.open(BytesIO(data), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"has an image of more than {max_pixels} pixels") from None
    except Exception as error:
        raise ImageError(_NO_IMAGE) from error
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"has an image of {width} by {height} pixels; at most {max_pixels} can be read"
            " (--max-image-pixels)"
        )
    if max(width, height) > _MAX_SIDE:
        raise ImageError(
            f"has an image of {width} by {height} pixels; a side may have {_MAX_SIDE} pixels"
        )
    if image.format in ("JPEG", "MPO") and has_more_scans(data, _MAX_SCANS):
        raise ImageError(f"has a JPEG of more than {_MAX_SCANS} scans")
    return image
