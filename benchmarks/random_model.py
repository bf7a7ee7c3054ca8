"""Writes a random Llama of 192 M parameters with the demo model's tokenizer, only once.

Its weights are too large for any CPU cache. Its output is noise.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

NAME = "random-192m"
_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 49152,
    "hidden_size": 1024,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "intermediate_size": 2816,
    "max_position_embeddings": 2048,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "dtype": "bfloat16",
}
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


def ensure(root: Path, tokenizer: Path) -> Path:
    """The checkpoint's folder below `root`, made if it does not exist."""
    folder = root / NAME / "1"
    if folder.exists():
        return folder
    partial = folder.with_name("1.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(dict(_tensors()), partial / "model.safetensors")
    (partial / "config.json").write_text(json.dumps(_CONFIG))
    for name in _TOKENIZER_FILES:
        shutil.copy(tokenizer / name, partial / name)
    partial.rename(folder)
    return folder


def _tensors() -> Iterator[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    for name, shape in _shapes().items():
        if len(shape) == 1:
            yield name, np.ones(shape, ml_dtypes.bfloat16)
        else:
            draw = rng.standard_normal(shape, np.float32) / np.sqrt(shape[1], dtype=np.float32)
            yield name, draw.astype(ml_dtypes.bfloat16)


def _shapes() -> dict[str, tuple[int, ...]]:
    d, f, kv = 1024, 2816, 512
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (49152, d)}
    for layer in range(12):
        name = f"model.layers.{layer}."
        shapes |= {
            f"{name}input_layernorm.weight": (d,),
            f"{name}post_attention_layernorm.weight": (d,),
            f"{name}self_attn.q_proj.weight": (d, d),
            f"{name}self_attn.k_proj.weight": (kv, d),
            f"{name}self_attn.v_proj.weight": (kv, d),
            f"{name}self_attn.o_proj.weight": (d, d),
            f"{name}mlp.gate_proj.weight": (f, d),
            f"{name}mlp.up_proj.weight": (f, d),
            f"{name}mlp.down_proj.weight": (d, f),
        }
    return shapes | {"model.norm.weight": (d,)}
