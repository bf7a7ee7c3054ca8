"""Each family there and back: as llama.cpp's converter writes it, and as the import reads it.

The import gives the weights, and a configuration that is the same model. What that model computes
is compared with transformers elsewhere, from the configuration and weights that this starts from.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from models.gguf.architectures import architecture_of
from models.gguf.config import model_config, stored_bits
from models.gguf.hf_tensors import weights
from models.gguf.reader import GgufError, GgufFile
from models.huggingface.config_file import parse_config
from tests.golden import random_models
from tests.golden.configs import CONFIGS
from tests.models.gguf.files import ModelFile, model_file

# What llama.cpp knows of a family, and so no file says.
GEMMA2, GEMMA3 = (
    {"query_pre_attn_scalar": 16},
    {
        "query_pre_attn_scalar": 16,
        "sliding_window_pattern": 6,
        "rope_local_base_freq": 10_000.0,
    },
)
NAMES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "qwen3-moe": ("qwen3moe", {}),
    "mistral": ("llama", {"architectures": ["LlamaForCausalLM"]}),
    "gemma2": ("gemma2", GEMMA2),
    "gemma3": ("gemma3", GEMMA3),
}


def metadata(architecture: str, config: dict[str, Any]) -> dict[str, Any]:
    """The keys that llama.cpp's converter writes for a config.json."""
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim", config["hidden_size"] // heads)
    values: dict[str, Any] = {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "rope.freq_base": {**config, **config.get("rope_parameters", {})}["rope_theta"],
    }
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if scaling.get("rope_type") == "linear":
        values |= {"rope.scaling.type": "linear", "rope.scaling.factor": scaling["factor"]}
    if architecture == "qwen3moe":
        values |= {
            "expert_count": config["num_experts"],
            "expert_used_count": config["num_experts_per_tok"],
            "expert_feed_forward_length": config["moe_intermediate_size"],
        }
    if architecture.startswith("gemma"):
        values |= {"attention.sliding_window": config["sliding_window"]}
    if architecture == "gemma2":
        keys = "attn_logit_softcapping", "final_logit_softcapping"
        values |= {key: config[key] for key in keys}
    tokens = [f"t{i}" for i in range(config["vocab_size"])]
    return {
        "general.architecture": architecture,
        **{f"{architecture}.{key}": value for key, value in values.items()},
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.bos_token_id": config["bos_token_id"],
        "tokenizer.ggml.eos_token_id": config["eos_token_id"],
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_family_comes_back_with_its_weights_and_as_the_same_model(tmp_path, name):
    architecture, changes = NAMES[name]
    original, config = random_models.weights(name), CONFIGS[name] | changes
    model = ModelFile(metadata(architecture, config), original)
    file = GgufFile(model.write(tmp_path / "m.gguf"))
    made = model_config(file, architecture_of(file))
    assert parse_config(made) == replace(parse_config(config), dtype="bfloat16")
    planned = weights(file, architecture_of(file), made)
    assert {weight.name for weight in planned} == original.keys()
    for weight in planned:
        found = np.frombuffer(b"".join(weight.pieces()), ml_dtypes.bfloat16).reshape(weight.shape)
        stored = original[weight.name]
        if architecture.startswith("gemma") and weight.name.endswith("norm.weight"):
            # As much as float32 holds of a number next to one.
            stored = (stored + np.float32(1)) - np.float32(1)
        assert_array_equal(found, stored.astype(ml_dtypes.bfloat16), weight.name)


@pytest.mark.parametrize(("architecture", "layers"), [("gemma2", 46), ("gemma3", 62)])
def test_the_largest_gemmas_scale_attention_by_a_heads_share_of_the_hidden_state(
    tmp_path, architecture, layers
):
    config = CONFIGS[architecture] | {"num_hidden_layers": layers}
    tensors = {"model.embed_tokens.weight": np.zeros((512, 96), np.float32)}
    file = GgufFile(ModelFile(metadata(architecture, config), tensors).write(tmp_path / "m.gguf"))
    assert model_config(file, architecture_of(file))["query_pre_attn_scalar"] == 96 // 8


def test_a_gemma_3_without_windows_attends_everywhere(tmp_path):
    config, tensors = CONFIGS["gemma3"], random_models.weights("gemma3")
    keys = metadata("gemma3", config)
    del keys["gemma3.attention.sliding_window"]
    file = GgufFile(ModelFile(keys, tensors).write(tmp_path / "m.gguf"))
    assert parse_config(model_config(file, architecture_of(file))).windows == (None,)


def test_a_list_of_windows_is_refused(tmp_path):
    keys = metadata("gemma3", CONFIGS["gemma3"])
    keys["gemma3.attention.sliding_window_pattern"] = [True, False]
    file = GgufFile(ModelFile(keys, random_models.weights("gemma3")).write(tmp_path / "m.gguf"))
    with pytest.raises(GgufError, match="sliding_window_pattern"):
        model_config(file, architecture_of(file))


@pytest.mark.parametrize(
    ("encoding", "expected"), [("Q4_0", 5), ("Q8_0", 9), ("F16", None), ("BF16", None)]
)
def test_a_quantized_file_says_how_many_bits_it_had(tmp_path, encoding, expected):
    import gguf

    model = model_file()
    kind = gguf.GGMLQuantizationType[encoding]
    for name in ("token_embd", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up"):
        for layer in range(2):
            prefix = "" if name == "token_embd" else f"blk.{layer}."
            model.encodings[f"{prefix}{name}.weight"] = kind
    model.encodings |= {f"blk.{layer}.ffn_down.weight": kind for layer in range(2)}
    file = GgufFile(model.write(tmp_path / "m.gguf"))
    config = model_config(file, architecture_of(file)) | stored_bits(file)
    assert config.get("gguf_bits") == expected
    assert parse_config(config).stored_bits == expected
