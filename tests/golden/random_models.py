"""Small random checkpoints, the same to the bit wherever they are made: nothing is stored but this.

One for every way the dense family differs: rope scaling (in both spellings of config.json), a tied
or untied head, biases, q/k norm, an explicit head size, the number of KV heads. Needs NumPy and
safetensors only, and Python 3.11: the reference environment makes them too.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

_COMMON = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "dtype": "float32",
}
# The blended part of the scaling lies within the positions of the prompts.
_LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "llama3-untied": _COMMON
    | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "head_dim": 16,
        "rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, **_LLAMA3},
    },
    "llama3-tied": _COMMON
    | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "tie_word_embeddings": True,
        "rope_theta": 10000.0,
        "rope_scaling": {"rope_type": "llama3", **_LLAMA3},
    },
    "qwen2": _COMMON
    | {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "use_sliding_window": False,
        "sliding_window": 128,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    },
    "qwen3": _COMMON
    | {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    },
    "mistral": _COMMON
    | {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "num_key_value_heads": 2,
        "head_dim": 16,
        "sliding_window": None,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
    },
}


def write(name: str, folder: Path) -> Path:
    """Write the checkpoint of that name into `folder`: config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIGS[name], indent=2) + "\n")
    save_file(weights(name), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def weights(name: str) -> dict[str, NDArray[np.float32]]:
    """Every weight, float32, under its Hugging Face name."""
    tied = CONFIGS[name]["tie_word_embeddings"]
    found = {}
    for weight, shape in _shapes(CONFIGS[name]).items():
        values = _uniform(f"{name}/{weight}", shape)
        if "norm" in weight:
            values = 1 + values / 4
        elif "proj.weight" in weight:
            values = values * np.float32(2 / np.sqrt(shape[1]))
        elif "embed" in weight and tied:
            # Small beside what the layers add: else the best token is always the one just read.
            values = values / 8
        found[weight] = values
    return found


def prompts(name: str, count: int = 24) -> list[list[int]]:
    """Token ids of `count` prompts of 1 to 47 tokens."""
    vocab_size = CONFIGS[name]["vocab_size"]
    raw = _raw(f"{name}/prompts", count * 48).reshape(count, 48)
    return [(row[: 1 + 2 * i % 48] % vocab_size).tolist() for i, row in enumerate(raw)]


def _shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, mlp = config["hidden_size"], config["intermediate_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim", hidden // heads)
    q, kv = heads * head_dim, kv_heads * head_dim
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (q, hidden),
        "self_attn.k_proj.weight": (kv, hidden),
        "self_attn.v_proj.weight": (kv, hidden),
        "self_attn.o_proj.weight": (hidden, q),
        "post_attention_layernorm.weight": (hidden,),
        "mlp.gate_proj.weight": (mlp, hidden),
        "mlp.up_proj.weight": (mlp, hidden),
        "mlp.down_proj.weight": (hidden, mlp),
    }
    if config["model_type"] == "qwen2":
        layer |= {f"self_attn.{n}_proj.bias": (q if n == "q" else kv,) for n in "qkv"}
    if config["model_type"] == "qwen3":
        layer |= {f"self_attn.{n}_norm.weight": (head_dim,) for n in "qk"}
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden)
    }
    for i in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return shapes


def _uniform(key: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Multiples of 2^-23 in [-1, 1): exact in float32."""
    raw = (_raw(key, int(np.prod(shape))) >> np.uint64(40)).astype(np.float32)
    return (raw / np.float32(1 << 23) - 1).reshape(shape)


def _raw(key: str, count: int) -> NDArray[np.uint64]:
    """64-bit words: a bit generator's own stream is the one NumPy promises not to change."""
    return np.random.PCG64(zlib.crc32(key.encode())).random_raw(count)
