"""Reads the tokenizer files of a checkpoint by transformers, or says which file cannot be read.

The server runs no code of a checkpoint and asks nobody whether it may. Knows neither requests nor
what a tokenizer is used for.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from server.api.tokenizers.file_difference import file_difference

_log = logging.getLogger(__name__)

_TOKENIZER = "tokenizer.json"
# Other vocabularies, which transformers converts where the packages for them are installed.
_VOCABULARIES = ("tokenizer.model", "vocab.json", "tekken.json", "spiece.model", "vocab.txt")
_LEGACY_TEMPLATE = "chat_template.json"
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_MAX_REASON_CHARS = 300


class TokenizerError(ValueError):
    """Tokenizer files that cannot be read; the message names the file and what to do."""


def load_pretrained(folder: Path) -> Any:
    """The tokenizer of transformers. Raises TokenizerError."""
    vocabulary = _vocabulary(folder)
    # transformers reads this at import; otherwise it advises to install torch.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import AutoTokenizer

    try:
        # Without the last argument, transformers asks on stdin whether to run code.
        pretrained = AutoTokenizer.from_pretrained(
            str(folder), use_fast=True, local_files_only=True, trust_remote_code=False
        )
    except (KeyboardInterrupt, SystemExit):
        raise
    # tokenizers raises plain Exception, and a panic of its Rust code is no Exception.
    except BaseException as error:
        raise _explained(folder, vocabulary, error) from error
    if getattr(pretrained, "backend_tokenizer", None) is None:
        raise TokenizerError(f"{folder} has only a slow tokenizer; {_how_to_make()}")
    if not pretrained.chat_template:
        pretrained.chat_template = _legacy_template(folder)
    if not _is_template(pretrained.chat_template):
        raise TokenizerError(
            f"{folder}: chat_template must be a text, or texts with names, and is"
            f" {str(pretrained.chat_template)[:_MAX_REASON_CHARS]!r}"
        )
    if vocabulary == _TOKENIZER and (sentence := file_difference(folder / vocabulary, pretrained)):
        _log.warning("%s", sentence)
    return pretrained


def _vocabulary(folder: Path) -> str:
    """The file that has the vocabulary. transformers makes an empty tokenizer where none has it."""
    for name in (_TOKENIZER, *_VOCABULARIES):
        if (folder / name).is_file():
            return name
    raise TokenizerError(f"{folder} has no {_TOKENIZER}; {_how_to_make()}")


def _how_to_make() -> str:
    return (
        f"make {_TOKENIZER} where transformers can read the tokenizer, by"
        " AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
    )


def _explained(folder: Path, vocabulary: str, error: BaseException) -> TokenizerError:
    for name in ("tokenizer_config.json", "config.json"):
        if _has_code(folder / name):
            return TokenizerError(
                f"{folder / name}: auto_map names code of the checkpoint; the server runs no code"
                f" of a checkpoint (trust_remote_code). {_how_to_make().capitalize()}"
            )
    reason = str(error)[:_MAX_REASON_CHARS]
    if vocabulary != _TOKENIZER:
        return TokenizerError(
            f"{folder} has {vocabulary} but no {_TOKENIZER}, and transformers cannot convert it"
            f" here ({reason}); {_how_to_make()}"
        )
    for name in (_TOKENIZER, "tokenizer_config.json", "special_tokens_map.json"):
        if fault := _json_fault(folder / name):
            return TokenizerError(f"{folder / name} cannot be read: {fault}")
    import tokenizers

    return TokenizerError(
        f"{folder / _TOKENIZER} cannot be read: {reason}. A newer release may have written it than"
        f" the installed tokenizers {tokenizers.__version__}"
    )


def _has_code(path: Path) -> bool:
    try:
        auto_map = json.loads(path.read_bytes()).get("auto_map")
    except (OSError, ValueError, AttributeError, RecursionError):
        return False
    return "AutoTokenizer" in auto_map if isinstance(auto_map, dict) else bool(auto_map)


def _json_fault(path: Path) -> str:
    """Why a file that is there is no JSON; empty if it is."""
    try:
        content = path.read_bytes()
        if content.startswith(_LFS_POINTER):
            return "it is a pointer of Git LFS, not the file itself: fetch the files (git lfs pull)"
        json.loads(content.decode("utf-8"))
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, RecursionError) as error:
        return str(error) or type(error).__name__
    return ""


def _is_template(found: Any) -> bool:
    texts = list(found.values()) if isinstance(found, dict) else [found or ""]
    return all(isinstance(text, str) for text in texts)


def _legacy_template(folder: Path) -> Any:
    """The template of a multimodal checkpoint's processor, which is the tokenizer's in new ones."""
    path = folder / _LEGACY_TEMPLATE
    if not path.is_file():
        return None
    if fault := _json_fault(path):
        raise TokenizerError(f"{path} cannot be read: {fault}")
    found = json.loads(path.read_bytes())
    if not isinstance(found, dict):
        raise TokenizerError(f"{path} is not a JSON object")
    return found.get("chat_template")
