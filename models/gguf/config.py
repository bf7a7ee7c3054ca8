"""`config.json` and `generation_config.json` out of a GGUF file's metadata.

Sizes come from the metadata, except where a tensor is more reliable (vocabulary, tied head).
"""

from __future__ import annotations

import math
from typing import Any

from models.gguf.architectures import EMBEDDING, HEAD, Architecture
from models.gguf.reader import GgufError, GgufFile, short
from models.gguf.rope import rope_parameters

# End-of-turn tokens that many files have in the vocabulary, but without a metadata key.
_END_TOKENS = frozenset({"<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<end_of_turn>"})
_CONTROL = 3
# A file with fewer bits a weight is quantized; Q8_0 has 8.5.
_LEAST_WIDE_BITS = 15


def model_config(file: GgufFile, architecture: Architecture) -> dict[str, Any]:
    """The content of config.json; GgufError for a missing size or an unsupported layout."""
    prefix = file.required("general.architecture")
    heads = int(file.required(f"{prefix}.attention.head_count"))
    hidden_size = int(file.required(f"{prefix}.embedding_length"))
    head_dim = int(file.metadata.get(f"{prefix}.attention.key_length", hidden_size // heads))
    if file.metadata.get(f"{prefix}.attention.value_length", head_dim) != head_dim:
        raise GgufError("heads whose keys and values differ in size are not supported")
    if file.metadata.get(f"{prefix}.attention.sliding_window") and not architecture.unit_offset:
        raise GgufError(f"sliding-window attention is not supported for architecture {prefix!r}")
    config = {
        "architectures": [architecture.class_name],
        "model_type": architecture.model_type,
        "hidden_size": hidden_size,
        "intermediate_size": int(file.required(f"{prefix}.feed_forward_length")),
        "num_hidden_layers": int(file.required(f"{prefix}.block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": _num_kv_heads(file, prefix, heads),
        "head_dim": head_dim,
        "vocab_size": _vocab_size(file),
        "max_position_embeddings": int(file.required(f"{prefix}.context_length")),
        "rms_norm_eps": short(file.required(f"{prefix}.attention.layer_norm_rms_epsilon")),
        "rope_parameters": rope_parameters(file, head_dim),
        "hidden_act": "silu",
        "attention_bias": any(f"blk.0.{name.gguf}" in file.tensors for name in architecture.biases),
        "mlp_bias": False,
        "tie_word_embeddings": HEAD.gguf not in file.tensors,
        "dtype": "bfloat16",
        **special_token_ids(file),
    }
    return config | architecture.fields(file, config)


def stored_bits(file: GgufFile) -> dict[str, int]:
    """The field of config.json that says how many bits a weight of a quantized file takes.

    That is on average over all matrices, rounded up. Empty for a file that is not quantized.
    """
    matrices = [tensor for tensor in file.tensors.values() if len(tensor.shape) > 1]
    num_weights = sum(math.prod(tensor.shape) for tensor in matrices)
    bits = 8 * sum(tensor.data.nbytes for tensor in matrices) / num_weights
    return {"gguf_bits": math.ceil(bits)} if bits < _LEAST_WIDE_BITS else {}


def generation_config(file: GgufFile) -> dict[str, Any]:
    """The content of generation_config.json: all end token ids, the usual one first."""
    eos_token_ids = [
        file.metadata[key]
        for name in ("eos", "eot", "eom")
        if (key := f"tokenizer.ggml.{name}_token_id") in file.metadata
    ]
    types = file.metadata.get("tokenizer.ggml.token_type", [])
    tokens = file.required("tokenizer.ggml.tokens")
    named = [
        token_id
        for token_id, (token, kind) in enumerate(zip(tokens, types, strict=False))
        if kind == _CONTROL and token in _END_TOKENS
    ]
    return {
        **special_token_ids(file),
        "eos_token_id": list(dict.fromkeys(int(i) for i in eos_token_ids + named)),
    }


def special_token_ids(file: GgufFile) -> dict[str, int]:
    """The ids of bos, eos and padding that the file has, under their config names."""
    keys = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    return {
        name: int(file.metadata[key])
        for name, kind in keys.items()
        if (key := f"tokenizer.ggml.{kind}_token_id") in file.metadata
    }


def _num_kv_heads(file: GgufFile, prefix: str, heads: int) -> int:
    count = file.metadata.get(f"{prefix}.attention.head_count_kv", heads)
    if isinstance(count, list):
        raise GgufError("layers with different numbers of KV heads are not supported")
    return int(count)


def _vocab_size(file: GgufFile) -> int:
    if EMBEDDING.gguf not in file.tensors:
        raise GgufError(f"{file.path} has no tensor {EMBEDDING.gguf}")
    return file.tensors[EMBEDDING.gguf].shape[0]
