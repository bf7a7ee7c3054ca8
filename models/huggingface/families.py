"""What each architecture adds to the fields that all decoders have.

A new family is a function here, a row of `ARCHITECTURES`, and what its mathematics needs in
`models.decoder`. Knows no files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from models.config import ModelConfigError, MoeConfig
from models.huggingface.fields import HF, count, flag, integer, number, optional_number
from models.huggingface.gemma4 import GEMMA4, GEMMA4_UNIFIED, gemma4
from models.huggingface.qwen3_5 import QWEN3_5, QWEN3_5_MOE, qwen3_5, qwen3_5_moe
from models.huggingface.rope import rope, rope_parameters
from models.huggingface.windows import layer_windows, window_of

type Fields = dict[str, Any]


def _llama(hf: HF) -> Fields:
    bias = flag(hf, "attention_bias")
    mlp_bias = flag(hf, "mlp_bias")
    return {"qkv_bias": bias, "output_bias": bias, "mlp_bias": mlp_bias}


def _mistral(hf: HF) -> Fields:
    return {"layer_windows": (window_of(hf),) * integer(hf, "num_hidden_layers")}


def _qwen2(hf: HF) -> Fields:
    return {"qkv_bias": True, "layer_windows": _qwen_windows(hf)}


def _qwen3(hf: HF) -> Fields:
    bias = flag(hf, "attention_bias")
    return {
        "qkv_bias": bias,
        "output_bias": bias,
        "qk_norm": True,
        "layer_windows": _qwen_windows(hf),
    }


def _qwen3_moe(hf: HF) -> Fields:
    dense = hf.get("mlp_only_layers", [])
    if not isinstance(dense, list):
        raise ModelConfigError(f"config.json: mlp_only_layers must be a list, not {dense!r}")
    if dense or integer(hf, "decoder_sparse_step", 1) != 1:
        raise ModelConfigError("experts on some layers only (mlp_only_layers) are not supported")
    moe = MoeConfig(
        num_experts=integer(
            hf, "num_local_experts" if "num_local_experts" in hf else "num_experts"
        ),
        num_experts_per_token=integer(hf, "num_experts_per_tok"),
        expert_size=integer(hf, "moe_intermediate_size"),
        renormalize=flag(hf, "norm_topk_prob"),
    )
    _check_experts(moe, "num_experts_per_tok")
    # Unlike its dense relatives, this architecture has a window on every layer or on none.
    return _qwen3({**hf, "max_window_layers": 0}) | {"moe": moe}


def _gpt_oss(hf: HF) -> Fields:
    """The activation's constants are the published ones; a checkpoint that names others differs."""
    for key, known in (("swiglu_limit", 7.0), ("swiglu_alpha", 1.702)):
        if number(hf, key, known) != known:
            raise ModelConfigError(f"{key} {hf[key]!r} is not supported; only {known} is")
    per_token = "num_experts_per_tok" if "num_experts_per_tok" in hf else "experts_per_token"
    bias = flag(hf, "attention_bias", True)
    moe = MoeConfig(
        num_experts=integer(hf, "num_local_experts"),
        num_experts_per_token=integer(hf, per_token),
        expert_size=integer(hf, "intermediate_size"),
        renormalize=True,
        biases=True,
        stacked=True,
    )
    _check_experts(moe, per_token)
    return {
        "qkv_bias": bias,
        "output_bias": bias,
        "sinks": True,
        "activation": "clamped_silu",
        "layer_windows": layer_windows(hf, lambda layer: layer % 2 == 0),
        "moe": moe,
    }


def _check_experts(moe: MoeConfig, key: str) -> None:
    if moe.num_experts_per_token > moe.num_experts:
        raise ModelConfigError(f"config.json: {key} is greater than the number of experts")


def _gemma2(hf: HF) -> Fields:
    _refuse_bidirectional(hf)
    return _gemma(hf, local=lambda layer: layer % 2 == 0) | {
        "attention_softcap": optional_number(hf, "attn_logit_softcapping"),
        "logit_softcap": optional_number(hf, "final_logit_softcapping"),
    }


def _gemma3(hf: HF) -> Fields:
    if hf.get("final_logit_softcapping") is not None:
        raise ModelConfigError("final_logit_softcapping is not supported for this architecture")
    period = integer(hf, "sliding_window_pattern", 6)
    fields = _gemma(hf, local=lambda layer: (layer + 1) % period != 0)
    local = rope_parameters(hf, "sliding_attention")
    if not hf.get("rope_parameters"):
        local = {"rope_theta": number(hf, "rope_local_base_freq", 10_000.0)}
    fields |= {"qk_norm": True, "local_rope": rope(hf, local)}
    return _bidirectional(fields) if _sees_later(hf) else fields


def _bidirectional(fields: Fields) -> Fields:
    """EmbeddingGemma's: half of a window lies behind a token and half before it."""
    windows = fields["layer_windows"]
    halves = tuple(None if window is None else window // 2 + 1 for window in windows)
    return fields | {"bidirectional": True, "layer_windows": halves}


def _gemma3_vision(hf: HF) -> Fields:
    _refuse_bidirectional(hf)
    return _gemma3(hf) | _VISION


def _refuse_bidirectional(hf: HF) -> None:
    if _sees_later(hf):
        raise ModelConfigError("use_bidirectional_attention is not supported for this architecture")


def _sees_later(hf: HF) -> bool:
    """Whether tokens see later ones; newer files say which."""
    if hf.get("use_bidirectional_attention") == "all":
        return True
    return flag(hf, "use_bidirectional_attention")


def _gemma(hf: HF, local: Callable[[int], bool]) -> Fields:
    if flag(hf, "attention_bias"):
        raise ModelConfigError("attention_bias is not supported for this architecture")
    return {
        "unit_offset": True,
        "post_norms": True,
        "embedding_scale": integer(hf, "hidden_size") ** 0.5,
        "attention_scale": number(hf, "query_pre_attn_scalar", 256) ** -0.5,
        "layer_windows": layer_windows(hf, local),
        "tie_embeddings": flag(hf, "tie_word_embeddings", True),
    }


# The fields that an architecture adds to the common ones.
ARCHITECTURES: Mapping[str, Callable[[HF], Fields]] = {
    "LlamaForCausalLM": _llama,
    "MistralForCausalLM": _mistral,
    "Qwen2ForCausalLM": _qwen2,
    "Qwen3ForCausalLM": _qwen3,
    "Qwen3MoeForCausalLM": _qwen3_moe,
    "Gemma2ForCausalLM": _gemma2,
    "Gemma3ForCausalLM": _gemma3,
    "Gemma3ForConditionalGeneration": _gemma3_vision,
    "Ministral3ForCausalLM": _mistral,
    "Mistral3ForConditionalGeneration": lambda hf: _mistral(hf) | _VISION,
    "GptOssForCausalLM": _gpt_oss,
    "Gemma4ForCausalLM": gemma4,
    "Gemma4ForConditionalGeneration": lambda hf: gemma4(hf) | _VISION,
    "Gemma4UnifiedForCausalLM": gemma4,
    "Gemma4UnifiedForConditionalGeneration": lambda hf: gemma4(hf) | _VISION,
    "Qwen3_5ForCausalLM": qwen3_5,
    "Qwen3_5ForConditionalGeneration": lambda hf: qwen3_5(hf) | _VISION,
    "Qwen3_5MoeForCausalLM": qwen3_5_moe,
    "Qwen3_5MoeForConditionalGeneration": lambda hf: qwen3_5_moe(hf) | _VISION,
}


# Those that may rotate a part of each head, like a head of that size.
PARTLY_ROTATED = tuple(name for name in ARCHITECTURES if name.startswith("Qwen3_5"))


# Those of which only the text model is served, and the architecture of that.
TEXT_MODELS = {
    "Gemma3ForConditionalGeneration": "Gemma3ForCausalLM",
    "Mistral3ForConditionalGeneration": "MistralForCausalLM",
    "Gemma4ForConditionalGeneration": "Gemma4ForCausalLM",
    "Gemma4UnifiedForConditionalGeneration": "Gemma4UnifiedForCausalLM",
    "Qwen3_5ForConditionalGeneration": "Qwen3_5ForCausalLM",
    "Qwen3_5MoeForConditionalGeneration": "Qwen3_5MoeForCausalLM",
}


_VISION: Fields = {"tensor_prefix": "language_model.model"}


# Published Gemma configurations omit fields that equal the architecture's default.
_GEMMA: Fields = {
    "vocab_size": 256_000,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "hidden_activation": "gelu_pytorch_tanh",
    "sliding_window": 4096,
}


# Those whose window is 4096 where a file leaves it out; a null is no window.
_OF_4096 = (
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
)


DEFAULTS: Mapping[str, Fields] = {
    "Gemma2ForCausalLM": _GEMMA | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    "Gemma3ForCausalLM": _GEMMA
    | {
        "vocab_size": 262_208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131_072,
        "rope_theta": 1_000_000.0,
    },
    **{name: {"sliding_window": 4096} for name in _OF_4096},
    "GptOssForCausalLM": {"sliding_window": 128},
    "Gemma4ForCausalLM": GEMMA4,
    "Gemma4UnifiedForCausalLM": GEMMA4_UNIFIED,
    "Qwen3_5ForCausalLM": QWEN3_5,
    "Qwen3_5MoeForCausalLM": QWEN3_5_MOE,
}


def _qwen_windows(hf: HF) -> tuple[int | None, ...]:
    num_layers = integer(hf, "num_hidden_layers")
    if not flag(hf, "use_sliding_window") or window_of(hf) is None:
        return (None,) * num_layers
    num_full = count(hf, "max_window_layers", 28)
    return layer_windows(hf, lambda layer: layer >= num_full)
