"""What stands for an image in the prompts of a checkpoint, and the pixels that its model reads.

Gemma 3 reads every image at one size, Gemma 4 in cells of about the image's aspect ratio. Read from
config.json, the files of the processor and those of the tokenizer. Knows neither arrays nor how
an image is decoded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.image_sizes import CellSizes, ImageSizes, SquareSizes

_GEMMA3, _GEMMA4 = "Gemma3ForConditionalGeneration", "Gemma4ForConditionalGeneration"
# Pillow's numbers of the filters; a file may name another.
_BILINEAR, _BICUBIC = 2, 3
_FILTERS = range(6)
# What transformers takes where the files do not say it.
_IMAGE_SIZE, _NUM_TOKENS = 896, 256
_PATCH_SIZE, _CELL_PATCHES, _MAX_TOKENS = 16, 3, 280
# Of the tokens of an image, and before and after it.
_GEMMA3_IDS = (262_144, 255_999, 256_000)
_GEMMA4_IDS = (258_880, 255_999, 258_882)

type _Fields = Mapping[str, Any]


class ImageFormatError(ValueError):
    """Files that say of images what this server cannot do, or that contradict each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFormat:
    """How a prompt has an image: as soft tokens `token_id`, between `start` and `end`.

    `token`, `start` and `end` are the texts of the tokens; `around` stands before and after them.
    The chat template writes `placeholder` for an image. An image is resized to one of `sizes` by
    the filter with Pillow's number `resample`.
    """

    sizes: ImageSizes
    resample: int
    token_id: int
    token: str
    start: str
    end: str
    placeholder: str
    around: str = ""

    def expansion(self, num_tokens: int) -> str:
        """What the tokenizer gets in place of the placeholder, as transformers' processor does."""
        image = f"{self.start}{self.token * num_tokens}{self.end}"
        return f"{self.around}{image}{self.around}"


def read_image_format(checkpoint: Path) -> ImageFormat | None:
    """How the checkpoint's prompts have images; None for a model that reads only text.

    Raises ImageFormatError.
    """
    hf = _read(checkpoint / "config.json")
    names = hf.get("architectures")
    if not isinstance(names, list):
        return None
    if _GEMMA3 in names:
        return _gemma3(checkpoint, hf)
    # The models that need no tower read no images here.
    return _gemma4(checkpoint, hf) if _GEMMA4 in names else None


def _gemma3(checkpoint: Path, hf: _Fields) -> ImageFormat:
    processor = _processor(checkpoint)
    token_id, token, start, end = _tokens(checkpoint, hf, _GEMMA3_IDS)
    return ImageFormat(
        sizes=SquareSizes(_side(hf, processor), _num_tokens(hf, processor)),
        resample=_resample(processor, _BILINEAR),
        token_id=token_id,
        token=token,
        start=start,
        end=end,
        placeholder=start,
        around="\n\n",
    )


def _gemma4(checkpoint: Path, hf: _Fields) -> ImageFormat:
    processor, vision = _processor(checkpoint), hf.get("vision_config")
    fields = vision if isinstance(vision, dict) else {}
    patch = _positive(fields, "patch_size", _PATCH_SIZE)
    cell = patch * _positive(fields, "pooling_kernel_size", _CELL_PATCHES)
    token_id, token, start, end = _tokens(checkpoint, hf, _GEMMA4_IDS)
    return ImageFormat(
        sizes=CellSizes(cell, _positive(processor, "max_soft_tokens", _MAX_TOKENS)),
        resample=_resample(processor, _BICUBIC),
        token_id=token_id,
        token=token,
        start=start,
        end=end,
        placeholder=token,
    )


def _tokens(
    checkpoint: Path, hf: _Fields, defaults: tuple[int, int, int]
) -> tuple[int, str, str, str]:
    """The token of an image and its text, and the texts of the tokens before and after it."""
    texts = _token_texts(checkpoint)
    token_id, *around = (
        _index(hf, (f"{name}_token_index", f"{name}_token_id"), default)
        for name, default in zip(("image", "boi", "eoi"), defaults, strict=True)
    )
    start, end = (_text(texts, each) for each in around)
    return token_id, _text(texts, token_id), start, end


def _processor(checkpoint: Path) -> _Fields:
    """The processor's fields. Newer files hold those of the images inside of those of the whole."""
    whole = _read(checkpoint / "processor_config.json")
    inner = whole.get("image_processor")
    images = inner if isinstance(inner, dict) else _read(checkpoint / "preprocessor_config.json")
    fields = {**whole, **images}
    if fields.get("do_pan_and_scan"):
        raise ImageFormatError("do_pan_and_scan is true; this server reads every image whole")
    if fields.get("do_resize") is False:
        raise ImageFormatError("do_resize is false; this server resizes every image")
    return fields


def _side(hf: _Fields, processor: _Fields) -> int:
    vision = hf.get("vision_config")
    side = _positive(vision if isinstance(vision, dict) else {}, "image_size", _IMAGE_SIZE)
    size = processor.get("size", {"height": side, "width": side})
    if size != {"height": side, "width": side}:
        raise ImageFormatError(
            f"the processor's size is {size!r}, but the model reads {side} by {side} pixels"
        )
    return side


def _num_tokens(hf: _Fields, processor: _Fields) -> int:
    num_tokens = _positive(hf, "mm_tokens_per_image", _NUM_TOKENS)
    written = _positive(processor, "image_seq_length", num_tokens)
    if written != num_tokens:
        raise ImageFormatError(
            f"image_seq_length is {written}, but mm_tokens_per_image is {num_tokens}"
        )
    return num_tokens


def _resample(processor: _Fields, default: int) -> int:
    value = processor.get("resample", default)
    if type(value) is not int or value not in _FILTERS:
        raise ImageFormatError(f"resample is {value!r}, which is no filter of Pillow")
    return value


def _index(hf: _Fields, names: tuple[str, ...], default: int) -> int:
    found = next((name for name in names if hf.get(name) is not None), names[0])
    return _positive(hf, found, default)


def _positive(fields: _Fields, name: str, default: int) -> int:
    value = default if fields.get(name) is None else fields[name]
    if type(value) is not int or value < 1:
        raise ImageFormatError(f"{name} is {value!r}; it must be a positive integer")
    return value


def _token_texts(checkpoint: Path) -> Mapping[int, str]:
    """The texts of the tokenizer's added tokens, by id."""
    added = _read(checkpoint / "tokenizer.json").get("added_tokens")
    entries = added if isinstance(added, list) else []
    return {
        entry["id"]: entry["content"]
        for entry in entries
        if isinstance(entry, dict)
        and isinstance(entry.get("id"), int)
        and isinstance(entry.get("content"), str)
    }


def _text(texts: Mapping[int, str], token_id: int) -> str:
    if not texts.get(token_id):
        raise ImageFormatError(
            f"tokenizer.json has no added token {token_id}, which stands for a part of an image"
        )
    return texts[token_id]


def _read(path: Path) -> dict[str, Any]:
    """A file's object; an empty one for a file that is not there or cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
