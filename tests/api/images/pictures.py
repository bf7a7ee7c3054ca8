"""Files of images, made by Pillow as cameras and programs write them."""

from __future__ import annotations

import base64
import struct
import zlib
from io import BytesIO

import numpy as np
from PIL import Image

from models.image_sizes import CellSizes, SquareSizes
from models.vision.image_format import ImageFormat

# Small numbers with the texts of Gemma 3.
FORM = ImageFormat(
    sizes=SquareSizes(32, 4),
    resample=2,
    token_id=0,
    token="<image_soft_token>",
    start="<start_of_image>",
    end="<end_of_image>",
    placeholder="<start_of_image>",
    around="\n\n",
)
# The same with the texts of Gemma 4: cells of 16 pixels, at most 8 of them.
CELLS = ImageFormat(
    sizes=CellSizes(16, 8),
    resample=3,
    token_id=0,
    token="<|image|>",
    start="<|image>",
    end="<image|>",
    placeholder="<|image|>",
)


def picture(mode: str = "RGB", size: tuple[int, int] = (50, 20), seed: int = 1) -> Image.Image:
    """A picture of random colours, which are the same for one seed."""
    width, height = size
    rng = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 1 << 16, (height, width), dtype=np.uint16))
    colours = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
    return Image.fromarray(colours, "RGBA").convert(mode)


def file_of(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(seed: int = 1) -> bytes:
    return file_of(picture(seed=seed))


def rotated(orientation: int) -> bytes:
    """A photo whose EXIF data says how the camera was held."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return file_of(picture(), "JPEG", exif=exif)


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG that says how large it is, with hardly any pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(bytes(9)))


def jpeg_of_scans(num_scans: int) -> bytes:
    """A progressive JPEG that repeats its last scan."""
    whole = file_of(picture(), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * num_scans + whole[-2:]


def data_url(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _chunk(kind: bytes, content: bytes) -> bytes:
    crc = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)
