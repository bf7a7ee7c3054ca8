"""Tells where transformers splits text otherwise than a checkpoint's tokenizer.json says.

For some model types and class names transformers takes only the vocabulary from the file, and its
own rules for splitting. That is how the model is then read everywhere, but not always how it was
trained. Knows neither requests nor what is done about it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as FastTokenizer

# Texts at which rules for splitting part: numbers, contractions, spaces, lines, composed letters.
_PROBES = (
    "Hello world, it's 2026!",
    "I'LL say: WE'RE there at 12345.678",
    "\n\n  def f(x):\n\treturn x**2  # twice\r\n",
    "  two  spaces   and more ",
    "na\u00efve cafe\u0301, \u65e5\u672c\u8a9e\u3067\u3059 \U0001f389",
    "https://example.com/a_b?c=1&d=%20",
)


def file_difference(path: Path, pretrained: Any) -> str:
    """A sentence about the first text that the file splits otherwise; empty where none is found.

    `path` is a tokenizer.json that can be read, `pretrained` what transformers made of it.
    """
    name, fast = type(pretrained).__name__, pretrained.backend_tokenizer
    if name == "TokenizersBackend":  # It takes the file as it is.
        return ""
    of_file = FastTokenizer.from_file(str(path))
    for text in _PROBES:
        here, there = (_ids(each, text) for each in (fast, of_file))
        if here != there:
            return (
                f"{path} splits text otherwise than the {name} of transformers, which the"
                " model_type of config.json or the tokenizer_class of tokenizer_config.json asks"
                f" for: {text!r} is {len(here)} tokens by transformers, {len(there)} by the file."
                " The server reads it as transformers does; if the model was trained by the file,"
                " its answers suffer. tokenizer_class TokenizersBackend takes the file as it is,"
                " but not with model_type qwen2"
            )
    return ""


def _ids(tokenizer: FastTokenizer, text: str) -> list[int]:
    """Empty for a text that the tokenizer cannot encode, as where the file lacks its <unk>."""
    try:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    # tokenizers raises plain Exception.
    except Exception:
        return []
    return ids
