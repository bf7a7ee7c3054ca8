"""Small random checkpoints in the Hugging Face layout, written from nothing but NumPy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 300,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "eos_token_id": 2,
    "dtype": "float32",
}


def tensor_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor that the architecture's checkpoint holds."""
    d, f, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    head_dim = config.get("head_dim", d // config["num_attention_heads"])
    q, kv = (config[key] * head_dim for key in ("num_attention_heads", "num_key_value_heads"))
    architecture = config["architectures"][0]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, d)}
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}."
        shapes |= {
            name + "input_layernorm.weight": (d,),
            name + "self_attn.q_proj.weight": (q, d),
            name + "self_attn.k_proj.weight": (kv, d),
            name + "self_attn.v_proj.weight": (kv, d),
            name + "self_attn.o_proj.weight": (d, q),
            name + "post_attention_layernorm.weight": (d,),
            name + "mlp.gate_proj.weight": (f, d),
            name + "mlp.up_proj.weight": (f, d),
            name + "mlp.down_proj.weight": (d, f),
        }
        if architecture == "Qwen2ForCausalLM":
            shapes |= {
                f"{name}self_attn.{letter}_proj.bias": (size,)
                for letter, size in (("q", q), ("k", kv), ("v", kv))
            }
        if architecture == "Qwen3ForCausalLM":
            shapes |= {f"{name}self_attn.{letter}_norm.weight": (head_dim,) for letter in "qk"}
    shapes["model.norm.weight"] = (d,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocab, d)
    return shapes


def random_tensors(config: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Float32 tensors: norms near one, the rest of a size that keeps activations near one."""
    rng = np.random.default_rng(seed)

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name.endswith("norm.weight"):
            return (1 + 0.1 * rng.standard_normal(shape)).astype(np.float32)
        return (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)

    return {name: draw(name, shape) for name, shape in tensor_shapes(config).items()}


def write_checkpoint(
    folder: Path, config: dict[str, Any] | None = None, seed: int = 0
) -> dict[str, np.ndarray]:
    """Write config.json and model.safetensors; returns the tensors."""
    config = config or LLAMA
    tensors = random_tensors(config, seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return tensors
