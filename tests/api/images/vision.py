"""A small model that reads images: its tokenizer, its processor and a service over an engine."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from tokenizers import AddedToken
from transformers import Gemma3Processor
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

from models.vision.image_format import ImageFormat
from server.api.tokenizers.tokenizer import Tokenizer
from tests.api.fakes import FakeEngine, small_pretrained
from tests.api.images import pictures
from tests.api.templates import GEMMA3_IMAGES, GEMMA4, tokenizer_with

MAX_IMAGES = 3
_TOKENS = {
    "boi_token": "<start_of_image>",
    "image_token": "<image_soft_token>",
    "eoi_token": "<end_of_image>",
}


@cache
def vision_tokenizer(template: str = GEMMA3_IMAGES) -> Tokenizer:
    """The small tokenizer with the tokens of Gemma 3: line breaks are some that are not special."""
    return Tokenizer(_pretrained(template))


@cache
def cell_tokenizer() -> Tokenizer:
    """The small tokenizer with the tokens and the template of Gemma 4."""
    return tokenizer_with(GEMMA4)


def vision_form(tokenizer: Tokenizer, form: ImageFormat = pictures.FORM) -> ImageFormat:
    return replace(form, token_id=tokenizer.special_id(form.token))


def vision_engine(script: Any = None, **options: Any) -> FakeEngine:
    fields = {"max_model_len": 2048, "vocab_size": 400, "max_images": MAX_IMAGES} | options
    return FakeEngine(script, **fields)


@cache
def processor() -> Any:
    """transformers' processor over the same tokenizer."""
    form = pictures.FORM
    side = form.sizes.most_pixels**0.5
    images = Gemma3ImageProcessorPil(size={"height": int(side), "width": int(side)})
    pretrained = _pretrained(GEMMA3_IMAGES)
    num_tokens = form.sizes.num_tokens
    return Gemma3Processor(
        images, pretrained, chat_template=GEMMA3_IMAGES, image_seq_length=num_tokens
    )


def _pretrained(template: str) -> Any:
    pretrained: Any = small_pretrained(chat_template=template, bos_token="<|eos|>")
    fast = pretrained.backend_tokenizer
    special = [*_TOKENS.values(), "<start_of_turn>", "<end_of_turn>"]
    fast.add_special_tokens([AddedToken(text, special=True) for text in special])
    fast.add_tokens([AddedToken("\n" * n, normalized=False, special=False) for n in range(1, 6)])
    for name, text in _TOKENS.items():
        setattr(pretrained, name, text)
        setattr(pretrained, f"{name}_id", fast.token_to_id(text))
    return pretrained
