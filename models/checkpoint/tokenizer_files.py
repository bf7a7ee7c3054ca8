"""The files of a checkpoint that make a text these tokens and no others, by checksum."""

from __future__ import annotations

import hashlib
from pathlib import Path

# The API processes read them once, at their start.
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip


def tokenizer_sums(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file there that belongs to the tokenizer."""
    present = [folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in present}
