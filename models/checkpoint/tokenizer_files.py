"""The checksums of the files that determine how a checkpoint turns text into tokens and vectors."""

from __future__ import annotations

import hashlib
from pathlib import Path

from models.checkpoint.module_files import module_files

# The API processes read these files only at their start.
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
    "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json",
)  # fmt: skip


def tokenizer_sums(folder: Path) -> dict[str, str]:
    """The SHA-256 of every tokenizer file in the folder, and of its modules for embeddings."""
    names = [*_TOKENIZER_FILES, *module_files(folder)]
    present = {name: folder / name for name in names if (folder / name).is_file()}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in present.items()}
