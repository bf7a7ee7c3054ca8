"""What a family's config.json has in addition to the sizes that every GGUF file gives.

A GGUF file leaves out what llama.cpp knows of the family: scales, activations, the pattern of
windows. Knows no tensors.
"""

from __future__ import annotations

from typing import Any

from models.gguf.reader import GgufError, GgufFile, short
from models.gguf.rope import rope_parameters

type Fields = dict[str, Any]

# The numbers of layers by which llama.cpp recognizes the models of 27B, which scale attention by
# the width of a head's share of the hidden state.
_LAYERS_OF_27B = {"gemma2": 46, "gemma3": 62}


def no_fields(_file: GgufFile, _config: Fields) -> Fields:
    """Those of a family whose sizes say everything."""
    return {}


def gemma2(file: GgufFile, config: Fields) -> Fields:
    """Windows on every other layer, and caps on the logits."""
    return _gemma(file, config) | {
        "sliding_window": int(file.metadata.get("gemma2.attention.sliding_window", 4096)),
        "attn_logit_softcapping": short(file.metadata.get("gemma2.attn_logit_softcapping", 50.0)),
        "final_logit_softcapping": short(file.metadata.get("gemma2.final_logit_softcapping", 30.0)),
    }


def gemma3(file: GgufFile, config: Fields) -> Fields:
    """Windows on five of six layers, which have a rotary embedding of their own."""
    window = file.metadata.get("gemma3.attention.sliding_window")
    pattern = file.metadata.get("gemma3.attention.sliding_window_pattern", 6) if window else 1
    if not isinstance(pattern, int):
        raise GgufError(
            "a list of the layers with a window (sliding_window_pattern) is unsupported"
        )
    local = float(file.metadata.get("gemma3.rope.freq_base_swa", 10_000.0))
    return _gemma(file, config) | {
        "sliding_window": int(window or config["max_position_embeddings"]),
        "sliding_window_pattern": pattern,
        "final_logit_softcapping": file.metadata.get("gemma3.final_logit_softcapping"),
        "rope_parameters": {
            "full_attention": rope_parameters(file, config["head_dim"], default_theta=1_000_000.0),
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
        },
    }


def qwen3_moe(file: GgufFile, _config: Fields) -> Fields:
    """Experts on every layer, the shares of a token's experts adding up to one."""
    return {
        "num_experts": int(file.required("qwen3moe.expert_count")),
        "num_experts_per_tok": int(file.required("qwen3moe.expert_used_count")),
        "moe_intermediate_size": int(file.required("qwen3moe.expert_feed_forward_length")),
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def _gemma(file: GgufFile, config: Fields) -> Fields:
    name, layers = file.required("general.architecture"), config["num_hidden_layers"]
    scalar = config["head_dim"]
    if layers == _LAYERS_OF_27B[name]:
        scalar = config["hidden_size"] // config["num_attention_heads"]
    return {"hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": scalar}
