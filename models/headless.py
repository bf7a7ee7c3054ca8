"""Decoders that are published without an output head, as models for embeddings are.

Such a checkpoint names the decoder without its head, or its files lack the head's matrix, or its
tensors lack the prefix that a model with a head gives them. A model whose tokens see later tokens
generates nothing either. Reads no numbers.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from models.tensor_names import stored_names

_WITH_HEAD: Mapping[str, str] = {
    "LlamaModel": "LlamaForCausalLM",
    "MistralModel": "MistralForCausalLM",
    "Qwen2Model": "Qwen2ForCausalLM",
    "Qwen3Model": "Qwen3ForCausalLM",
    "Gemma2Model": "Gemma2ForCausalLM",
    "Gemma3TextModel": "Gemma3ForCausalLM",
}
_TOP_TENSORS = ("embed_tokens.", "layers.", "norm.")
_HEAD = "lm_head.weight"
_TIED = "tie_word_embeddings"


def with_head(architecture: Any) -> Any:
    """The name of the same decoder with its head; any other name as it is."""
    return _WITH_HEAD.get(architecture, architecture) if isinstance(architecture, str) else None


def tensor_name(name: str) -> str:
    """The tensor's name in a model with a head."""
    return f"model.{name}" if name.startswith(_TOP_TENSORS) else name


def why_no_tokens(checkpoint: Path) -> str:
    """Why the model generates no tokens, as a sentence; empty for a model that does."""
    # Gemma 4 lets only the tokens of an image see each other, and says "vision".
    if _read(checkpoint / "config.json").get("use_bidirectional_attention") in (True, "all"):
        return "in this model tokens see later tokens, so it generates none"
    if is_headless(checkpoint):
        return "this model has no output head, so it generates no tokens"
    return ""


def is_headless(checkpoint: Path) -> bool:
    """Whether the folder's files say that it has no head: such a model generates no tokens.

    False for files that cannot be read: whoever needs them says so.
    """
    hf = _read(checkpoint / "config.json")
    names = hf.get("architectures")
    if isinstance(names, list) and any(name in _WITH_HEAD for name in map(str, names)):
        return True
    tied = says_tied(hf)
    if _is_tied_by_default(names) if tied is None else tied:
        return False
    stored = stored_names(checkpoint)
    return bool(stored) and not has_head(stored)


def says_tied(hf: Mapping[str, Any]) -> bool | None:
    """What config.json says of its embedding and head; None where it says nothing.

    A multimodal checkpoint may say it of its text model or of the whole.
    """
    for fields in (hf.get("text_config"), hf):
        if isinstance(fields, dict) and fields.get(_TIED) is not None:
            return bool(fields[_TIED])
    return None


def has_head(names: Collection[str]) -> bool:
    """Whether the tensors with these names have an output head of their own."""
    return any(name.endswith(_HEAD) for name in names)


def _is_tied_by_default(architectures: Any) -> bool:
    """Of these, files may leave the field out where the head is the embedding."""
    names = map(str, architectures) if isinstance(architectures, list) else ()
    return any(name.startswith(("Gemma", "Mistral3For")) for name in names)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
