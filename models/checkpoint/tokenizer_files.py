"""The checksums of what the API processes read of a checkpoint, once, at their start.

That is how text becomes tokens and vectors, and how tokens are drawn unless a request says it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from models.checkpoint.module_files import module_files
from models.checkpoint.sampling_defaults import GENERATION_CONFIG, sampling_defaults

_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
    "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json",
)  # fmt: skip


def tokenizer_sums(folder: Path) -> dict[str, str]:
    """The SHA-256 of every tokenizer file in the folder, and of its modules for embeddings.

    Under the name of generation_config.json, that of its sampling options, if it has any.
    """
    names = [*_TOKENIZER_FILES, *module_files(folder)]
    present = {name: folder / name for name in names if (folder / name).is_file()}
    sums = {name: _sum(path.read_bytes()) for name, path in present.items()}
    if defaults := sampling_defaults(folder):
        # The file says other things too, which the engine reads of each version.
        sums[GENERATION_CONFIG] = _sum(json.dumps(defaults, sort_keys=True).encode())
    return sums


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
