"""A checkpoint that serves text: random weights, and a tokenizer of one token per byte."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tests.api.templates import GEMMA3_IMAGES, GEMMA4
from tests.golden import random_models
from tests.models.checkpoints import LLAMA, write_checkpoint

# At the ids that the checkpoint's config.json names.
IMAGE_TOKENS = ["<image_soft_token>", "<start_of_image>", "<end_of_image>"]
GEMMA4_TOKENS = [
    *("<|image|>", "<|image>", "<image|>", "<|turn>", "<turn|>", "<|think|>", "<|channel>"),
    *("<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", '<|"|>'),
]
SPECIAL_TOKENS = ["<unk>", "<s>", "</s>", "<pad>"]
CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def write_serving_checkpoint(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Random weights that never end a sequence by themselves, and what reads and writes text."""
    write_checkpoint(folder, LLAMA | {"max_position_embeddings": 2048} | changes, seed=seed)
    return write_tokenizer(folder)


def write_image_checkpoint(folder: Path) -> Path:
    """Random weights that read images, and a tokenizer with Gemma 3's tokens at their ids.

    A token that says nothing has a text of its own, so no two answers read alike.
    """
    random_models.write("gemma3-images", folder)
    unused = [f"<unused{i}>" for i in range(500 - len(SPECIAL_TOKENS) - 256)]
    more = [*unused, *IMAGE_TOKENS, "<start_of_turn>", "<end_of_turn>"]
    return write_tokenizer(folder, more, GEMMA3_IMAGES)


def write_gemma4_checkpoint(folder: Path) -> Path:
    """The same with the images, the tokens and the chat template of Gemma 4."""
    random_models.write("gemma4-images", folder)
    unused = [f"<unused{i}>" for i in range(500 - len(SPECIAL_TOKENS) - 256)]
    return write_tokenizer(folder, [*unused, *GEMMA4_TOKENS], GEMMA4)


def write_tokenizer(
    folder: Path, more: Sequence[str] = (), chat_template: str = CHAT_TEMPLATE
) -> Path:
    """What reads and writes text, next to weights of at least 260 tokens, and of `more`.

    Of `more`, those that are named unused are plain text, and the others control tokens.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *alphabet, *more])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = SPECIAL_TOKENS + [token for token in more if not token.startswith("<unused")]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "chat_template": chat_template,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
