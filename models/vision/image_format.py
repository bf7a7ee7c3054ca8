"""What stands for an image in the prompts of a checkpoint, and the pixels that its model reads.

Of Gemma 3's family: the model reads every image at one size, as one number of tokens. Read from
config.json, the files of the processor and those of the tokenizer. Knows neither arrays nor how
an image is decoded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ARCHITECTURE = "Gemma3ForConditionalGeneration"
# Pillow's number of the filter; a file may name another.
_BILINEAR = 2
_FILTERS = range(6)
# What transformers takes where config.json does not say it.
_IMAGE_SIZE, _NUM_TOKENS = 896, 256
_START_ID, _END_ID, _TOKEN_ID = 255_999, 256_000, 262_144

type _Fields = Mapping[str, Any]


class ImageFormatError(ValueError):
    """Files that say of images what this server cannot do, or that contradict each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFormat:
    """How a prompt has an image: `num_tokens` soft tokens `token_id`, between `start` and `end`.

    `token`, `start` and `end` are the texts of the tokens. The model reads `height` times `width`
    pixels, to which an image is resized by the filter with Pillow's number `resample`.
    """

    height: int
    width: int
    resample: int
    num_tokens: int
    token_id: int
    token: str
    start: str
    end: str

    @property
    def placeholder(self) -> str:
        """What the chat template writes for an image."""
        return self.start

    @property
    def expansion(self) -> str:
        """What the tokenizer gets in place of the placeholder, as transformers' processor does."""
        return f"\n\n{self.start}{self.token * self.num_tokens}{self.end}\n\n"


def read_image_format(checkpoint: Path) -> ImageFormat | None:
    """How the checkpoint's prompts have images; None for a model that reads only text.

    Raises ImageFormatError.
    """
    hf = _read(checkpoint / "config.json")
    names = hf.get("architectures")
    if not isinstance(names, list) or _ARCHITECTURE not in names:
        return None
    processor = _processor(checkpoint)
    height, width = _size(hf, processor)
    token_id = _index(hf, ("image_token_index", "image_token_id"), _TOKEN_ID)
    texts = _token_texts(checkpoint)
    start = _text(texts, _index(hf, ("boi_token_index", "boi_token_id"), _START_ID))
    end = _text(texts, _index(hf, ("eoi_token_index", "eoi_token_id"), _END_ID))
    return ImageFormat(
        height=height,
        width=width,
        resample=_resample(processor),
        num_tokens=_num_tokens(hf, processor),
        token_id=token_id,
        token=_text(texts, token_id),
        start=start,
        end=end,
    )


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


def _size(hf: _Fields, processor: _Fields) -> tuple[int, int]:
    vision = hf.get("vision_config")
    side = _positive(vision if isinstance(vision, dict) else {}, "image_size", _IMAGE_SIZE)
    size = processor.get("size", {"height": side, "width": side})
    if size != {"height": side, "width": side}:
        raise ImageFormatError(
            f"the processor's size is {size!r}, but the model reads {side} by {side} pixels"
        )
    return side, side


def _num_tokens(hf: _Fields, processor: _Fields) -> int:
    num_tokens = _positive(hf, "mm_tokens_per_image", _NUM_TOKENS)
    written = _positive(processor, "image_seq_length", num_tokens)
    if written != num_tokens:
        raise ImageFormatError(
            f"image_seq_length is {written}, but mm_tokens_per_image is {num_tokens}"
        )
    return num_tokens


def _resample(processor: _Fields) -> int:
    value = processor.get("resample", _BILINEAR)
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
