"""The checksums of the files that determine how a checkpoint turns text into tokens."""

from __future__ import annotations

import hashlib
from pathlib import Path

# The API processes read these files only at their start.
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip


def tokenizer_sums(folder: Path) -> dict[str, str]:
    """The SHA-256 of every tokenizer file in the folder."""
    present = [folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in present}
