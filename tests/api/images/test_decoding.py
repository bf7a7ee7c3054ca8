"""Files become the pixels that transformers makes of them, or are refused before they cost much."""

from __future__ import annotations

import contextlib
import random
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from transformers.image_utils import load_image
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

from server.api.images.decoding import ImageError, read_image
from tests.api.images.pictures import (
    FORM,
    data_url,
    file_of,
    jpeg_of_scans,
    picture,
    png,
    png_header,
    rotated,
)

MAX_PIXELS = 1 << 20
PROCESSOR = Gemma3ImageProcessorPil(size={"height": 32, "width": 32})
TRANSPARENT = picture("RGB").quantize(8)
FRAMES = [picture(seed=seed) for seed in (2, 3)]
FILES = {
    "PNG": png(),
    "JPEG": file_of(picture(), "JPEG"),
    "progressive JPEG": file_of(picture(), "JPEG", progressive=True),
    "WebP": file_of(picture(), "WEBP"),
    "lossless WebP": file_of(picture(), "WEBP", lossless=True),
    "GIF": file_of(picture(), "GIF"),
    "alpha": file_of(picture("RGBA")),
    "alpha in WebP": file_of(picture("RGBA"), "WEBP", lossless=True),
    "gray": file_of(picture("L")),
    "gray JPEG": file_of(picture("L"), "JPEG"),
    "gray and alpha": file_of(picture("LA")),
    "black and white": file_of(picture("1")),
    "palette": file_of(TRANSPARENT),
    "palette with a transparent colour": file_of(TRANSPARENT, transparency=3),
    "colour that is transparent": file_of(picture(), transparency=picture().getpixel((3, 2))),
    "CMYK": file_of(picture("CMYK"), "JPEG"),
    "16 bits": file_of(picture("I;16")),
    "GIF of two frames": file_of(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]),
    "WebP of two frames": file_of(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]),
    "PNG of two frames": file_of(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]),
    "two pictures in a JPEG": file_of(FRAMES[0], "MPO", save_all=True, append_images=FRAMES[1:]),
    "a film behind a JPEG": file_of(picture(), "JPEG") + b"\xff\xda" * 1000,
    "the bytes of scans in a comment": file_of(picture(), "JPEG", comment=b"\xff\xda" * 1000),
    "a hundred scans": jpeg_of_scans(90),
    "one pixel": file_of(picture(size=(1, 1))),
    "larger than the model's": file_of(picture(size=(321, 45))),
    **{f"orientation {number}": rotated(number) for number in range(1, 9)},
}


def values_of(data, **options):
    """What transformers' processor makes of the same file, [3, height, width]."""
    return PROCESSOR(load_image(data_url(data)), **options)["pixel_values"][0]


@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
def test_pixels_are_those_of_transformers_before_they_are_scaled(data):
    image = read_image(data, FORM, MAX_PIXELS)
    pixels = np.frombuffer(image.pixels, np.uint8).reshape(image.height, image.width, 3)
    expected = values_of(data, do_rescale=False, do_normalize=False)
    assert np.array_equal(pixels, np.moveaxis(expected, 0, -1))


def test_scaled_they_are_what_its_model_reads():
    pixels = np.frombuffer(read_image(png(), FORM, MAX_PIXELS).pixels, np.uint8)
    scaled = (pixels.reshape(32, 32, 3).astype(np.float32) / 255 - 0.5) / 0.5
    assert np.allclose(np.moveaxis(scaled, -1, 0), values_of(png()), atol=1e-6)


@pytest.mark.parametrize("resample", [0, 1, 3])
def test_the_filter_is_the_files(resample):
    image = read_image(png(), replace(FORM, resample=resample), MAX_PIXELS)
    expected = values_of(png(), resample=resample, do_rescale=False, do_normalize=False)
    pixels = np.frombuffer(image.pixels, np.uint8).reshape(32, 32, 3)
    assert np.array_equal(pixels, np.moveaxis(expected, 0, -1))


def test_a_digest_is_of_the_pixels_however_they_were_written():
    small = picture(size=(32, 32))
    files = [file_of(small), file_of(small, "WEBP", lossless=True), file_of(small.rotate(90))]
    first, second, turned = (read_image(file, FORM, MAX_PIXELS).digest for file in files)
    assert first == second != turned
    assert len(first) == 32


# Bombs have a few pixels more than may be: they are made whenever tests are collected.
REFUSED = {
    "nothing": (b"", "no PNG, JPEG, WebP or GIF"),
    "text": (b"<html>hello", "no PNG, JPEG, WebP or GIF"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no PNG"),
    "BMP": (file_of(picture(), "BMP"), "no PNG"),
    "TIFF": (file_of(picture(), "TIFF"), "no PNG"),
    "PDF": (file_of(picture(), "PDF"), "no PNG"),
    "only a signature": (png()[:8], "no PNG"),
    "PNG cut short": (png()[:-700], "damaged or cut short"),
    "JPEG cut short": (FILES["JPEG"][:-100], "damaged or cut short"),
    "WebP cut short": (FILES["WebP"][:-100], "damaged|no PNG"),
    "GIF cut short": (FILES["GIF"][:-300], "damaged or cut short"),
    "PNG with wrong bytes": (png()[:60] + bytes(40) + png()[100:], "damaged or cut short"),
    "PNG of too many pixels": (png_header(1025, 1024), "1025 by 1024 pixels"),
    "PNG of a long line": (png_header(65_536, 1), "65536 by 1 pixels; a side may have 65535"),
    "PNG of many lines": (png_header(1, 65_536), "1 by 65536 pixels; a side may have 65535"),
    "PNG bomb": (png_header(60_000, 60_000), "pixels"),
    "WebP bomb": (file_of(Image.new("RGB", (16_383, 65)), "WEBP"), "16383 by 65 pixels"),
    "GIF bomb": (file_of(Image.new("P", (5000, 210)), "GIF"), "5000 by 210 pixels"),
    "JPEG bomb": (file_of(Image.new("L", (5000, 210)), "JPEG"), "5000 by 210 pixels"),
    "JPEG of many scans": (jpeg_of_scans(200), "more than 100 scans"),
    "many scans behind an end in a comment": (
        b"\xff\xd8" + b"\xff\xfe\x00\x04\xff\xd9" + jpeg_of_scans(200)[2:],
        "more than 100 scans",
    ),
}


@pytest.mark.parametrize(("data", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(data, said):
    with pytest.raises(ImageError, match=said):
        read_image(data, FORM, MAX_PIXELS)


@pytest.mark.parametrize("size", [(65_535, 1), (1, 65_535)])
def test_a_side_may_be_as_long_as_a_jpegs(size):
    assert read_image(file_of(Image.new("RGB", size)), FORM, MAX_PIXELS).width == 32


def test_as_many_pixels_as_may_be_are_read():
    assert read_image(file_of(picture(size=(40, 25))), FORM, 1000).height == 32


def test_a_bomb_is_refused_by_its_header_alone():
    began = time.process_time()
    with pytest.raises(ImageError):
        read_image(png_header(60_000, 60_000), FORM, MAX_PIXELS)
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "progressive JPEG", "WebP", "GIF", "CMYK"])
def test_damaged_files_are_read_or_refused_and_nothing_else(kind):
    rng, whole = random.Random(7), FILES[kind]
    for _ in range(150):
        with contextlib.suppress(ImageError):
            read_image(damaged(rng, whole), FORM, MAX_PIXELS)


def damaged(rng: random.Random, file: bytes) -> bytes:
    """A file with some bytes changed, left out, or doubled."""
    data = bytearray(file)
    for _ in range(rng.randint(1, 8)):
        place = rng.randrange(len(data))
        match rng.randrange(3):
            case 0:
                data[place] = rng.randrange(256)
            case 1:
                del data[place : place + rng.randint(1, 30)]
            case 2:
                data[place:place] = data[place : place + rng.randint(1, 30)]
    return bytes(data)
