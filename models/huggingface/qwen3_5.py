"""What the text models of Qwen3.5 add to the fields that all decoders have.

Most layers have a state in the place of keys and values; one in four has attention. The checkpoints
that read images too place a token by three numbers; those of a text's token are equal, so a text is
rotated as usual. Knows no files.
"""

from __future__ import annotations

from typing import Any

from models.config import RECURRENT, ModelConfigError, MoeConfig, RecurrenceConfig
from models.huggingface.fields import HF, flag, integer

type Fields = dict[str, Any]

_RECURRENT, _FULL = "linear_attention", "full_attention"

# Configurations omit fields that equal the architecture's default.
QWEN3_5: Fields = {
    "vocab_size": 248_320,
    "hidden_size": 4096,
    "intermediate_size": 12_288,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 32_768,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "partial_rotary_factor": 0.25,
}
QWEN3_5_MOE: Fields = QWEN3_5 | {
    "hidden_size": 2048,
    "num_hidden_layers": 40,
    "num_key_value_heads": 2,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "num_experts_per_tok": 8,
    "num_experts": 256,
}


def qwen3_5(hf: HF) -> Fields:
    """The fields of a dense model."""
    if flag(hf, "attention_bias"):
        raise ModelConfigError("attention_bias is not supported for this architecture")
    if not flag(hf, "attn_output_gate", True):
        raise ModelConfigError("attn_output_gate false is not supported for this architecture")
    layers = _layers(hf)
    return {
        "layer_windows": layers,
        "recurrence": _recurrence(hf) if RECURRENT in layers else None,
        "qk_norm": True,
        "output_gate": True,
        "unit_offset": True,
    }


def qwen3_5_moe(hf: HF) -> Fields:
    """The fields of a model with experts, and a shared one, in the place of each MLP."""
    if hf.get("mlp_only_layers", []) != []:
        raise ModelConfigError("experts on some layers only (mlp_only_layers) are not supported")
    moe = MoeConfig(
        num_experts=integer(hf, "num_experts"),
        num_experts_per_token=integer(hf, "num_experts_per_tok"),
        expert_size=integer(hf, "moe_intermediate_size"),
        renormalize=True,
        shared=True,
    )
    if moe.num_experts_per_token > moe.num_experts:
        raise ModelConfigError(
            "config.json: num_experts_per_tok is greater than the number of experts"
        )
    shared = integer(hf, "shared_expert_intermediate_size")
    return qwen3_5(hf) | {"moe": moe, "mlp_size": shared}


def _layers(hf: HF) -> tuple[int | None, ...]:
    """Which layers have a state, from `layer_types` if given, else by `full_attention_interval`."""
    num_layers, interval = (
        integer(hf, "num_hidden_layers"),
        integer(hf, "full_attention_interval", 4),
    )
    types = hf.get("layer_types")
    if types in (None, []):
        types = [_RECURRENT if (i + 1) % interval else _FULL for i in range(num_layers)]
    if not isinstance(types, list) or len(types) != num_layers:
        raise ModelConfigError(f"config.json: layer_types must list {num_layers} layers")
    if unknown := sorted({str(each) for each in types if each not in (_RECURRENT, _FULL)}):
        raise ModelConfigError(f"layer types {unknown} are not supported")
    if _FULL not in types:
        raise ModelConfigError(
            f"layer_types has no {_FULL}; a model whose layers all have a state is not supported"
        )
    return tuple(RECURRENT if each == _RECURRENT else None for each in types)


def _recurrence(hf: HF) -> RecurrenceConfig:
    found = RecurrenceConfig(
        num_key_heads=integer(hf, "linear_num_key_heads"),
        num_value_heads=integer(hf, "linear_num_value_heads"),
        key_dim=integer(hf, "linear_key_head_dim"),
        value_dim=integer(hf, "linear_value_head_dim"),
        conv_size=integer(hf, "linear_conv_kernel_dim"),
    )
    if found.num_value_heads % found.num_key_heads:
        raise ModelConfigError(
            f"linear_num_key_heads {found.num_key_heads} does not divide linear_num_value_heads"
            f" {found.num_value_heads}"
        )
    if found.conv_size < 2:
        raise ModelConfigError("linear_conv_kernel_dim 1 is not supported; it must be 2 or more")
    return found
