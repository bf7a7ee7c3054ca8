"""The tokens that end an answer, as the tokenizer's files name them.

Many fine-tuned models end a turn with a token that only the tokenizer or the chat template names,
while config.json still has the end token of the base model. Knows neither config.json nor models.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models.checkpoint.json_files import JsonFileError, read_object

# Each of these ends a turn wherever a chat template has it. By the last one, which begins a tool's
# response, Gemma 4 hands over to its tools.
_TURN_ENDS = (
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|eot|>", "<turn|>",
    "<|tool_response>",
)  # fmt: skip
_MAX_TOKENIZER_BYTES = 256 << 20


def tokenizer_end_ids(folder: Path) -> tuple[int, ...]:
    """The ids of the tokenizer's end token and of the chat template's ends of turns.

    Empty without tokenizer files. Raises JsonFileError for a file that cannot be read.
    """
    config = _read(folder / "tokenizer_config.json")
    legacy = _read(folder / "special_tokens_map.json")
    template = "\n".join(_templates(folder, config))
    names = {_text(config.get("eos_token")) or _text(legacy.get("eos_token"))}
    names |= {end for end in _TURN_ENDS if end in template}
    return tuple(sorted(_ids(folder, config, names - {""})))


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_object(path, max_bytes=_MAX_TOKENIZER_BYTES)
    except FileNotFoundError:
        return {}


def _text(token: Any) -> str:
    """A token, which the files write as text or as an object with its content."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else ""


def _templates(folder: Path, config: dict[str, Any]) -> Iterator[str]:
    """The chat templates of all three files, each alone or one of several with names."""
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        try:
            yield jinja.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise JsonFileError(f"{jinja} cannot be read: {error}") from error
    for found in (config, _read(folder / "chat_template.json")):
        template = found.get("chat_template")
        for one in template if isinstance(template, list) else [template]:
            yield _text(one["template"] if isinstance(one, dict) and "template" in one else one)


def _ids(folder: Path, config: dict[str, Any], names: set[str]) -> set[int]:
    """The ids of these tokens, as far as the vocabulary has them."""
    added = config.get("added_tokens_decoder")
    entries = added.items() if isinstance(added, dict) else ()
    found = {
        _text(token): int(token_id) for token_id, token in entries if str(token_id).isdecimal()
    }
    if not names <= found.keys():
        found = _vocabulary(folder / "tokenizer.json") | found
    return {found[name] for name in names if name in found}


def _vocabulary(path: Path) -> dict[str, int]:
    """The added tokens, and the words of a vocabulary that is an object."""
    try:
        tokenizer = json.loads(path.read_bytes())
        words = tokenizer.get("model", {}).get("vocab", {})
        added = {token["content"]: token["id"] for token in tokenizer.get("added_tokens") or ()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise JsonFileError(f"{path} cannot be read: {error!r}") from error
    return (words if isinstance(words, dict) else {}) | added
