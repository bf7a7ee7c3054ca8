"""Reads Gemma 4's vision tower from its config.json and the fields of its image processor.

A field that the tower does not compute is refused by name. Knows neither files nor weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.config import CellVisionConfig, ModelConfigError
from models.huggingface.fields import HF, flag, integer, number
from models.huggingface.tower_fields import check_activation, tower_fields

_ARCHITECTURES = ("Gemma4ForConditionalGeneration",)
_TOWER = "gemma4_vision"
# What transformers takes where a file does not say it.
_NUM_TOKENS = 280
_ROPE_TYPES = (None, "default", "axial")
_DEFAULTS: Mapping[str, Any] = {
    "model_type": _TOWER,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 16,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "head_dim": 64,
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "pooling_kernel_size": 3,
    "patch_size": 16,
    "position_embedding_size": 10_240,
}


def parse_cell_vision(architecture: str, hf: HF) -> CellVisionConfig | None:
    """The tower of a config.json; None where the checkpoint has none that is served."""
    vision = tower_fields(hf, _DEFAULTS) if architecture in _ARCHITECTURES else None
    if vision is None:
        return None
    _refuse_unsupported(vision)
    text = hf.get("text_config")
    sight = text.get("use_bidirectional_attention") if isinstance(text, Mapping) else None
    return CellVisionConfig(
        hidden_size=integer(vision, "hidden_size"),
        num_layers=integer(vision, "num_hidden_layers"),
        num_heads=integer(vision, "num_attention_heads"),
        head_dim=integer(vision, "head_dim"),
        mlp_size=integer(vision, "intermediate_size"),
        patch_size=integer(vision, "patch_size"),
        cell_patches=integer(vision, "pooling_kernel_size"),
        num_tokens=_NUM_TOKENS,
        num_places=integer(vision, "position_embedding_size"),
        norm_eps=number(vision, "rms_norm_eps"),
        rope_theta=_theta(vision),
        standardizes=flag(vision, "standardize"),
        local_sight=sight == "vision",
    )


def with_cell_processor(vision: CellVisionConfig, hf: HF) -> CellVisionConfig | None:
    """The tower with as many tokens of an image as its processor allows.

    None if the tower has no vectors for all places of such an image.
    """
    for ours, theirs in (("patch_size", "patch_size"), ("cell_patches", "pooling_kernel_size")):
        expected = getattr(vision, ours)
        if (found := integer(hf, theirs, expected)) != expected:
            raise ModelConfigError(
                f"the image processor's {theirs} is {found}, but the model's is {expected}"
            )
    if flag(hf, "do_normalize") and not _is_identity(hf):
        raise ModelConfigError("do_normalize of Gemma 4's image processor is not supported")
    vision = replace(vision, num_tokens=integer(hf, "max_soft_tokens", _NUM_TOKENS))
    longest_side = vision.num_tokens * vision.cell_patches
    return vision if longest_side <= vision.num_places else None


def _refuse_unsupported(vision: HF) -> None:
    check_activation(vision, "hidden_activation", _DEFAULTS)
    for name in ("use_clipped_linears", "attention_bias"):
        if flag(vision, name):
            raise ModelConfigError(f"vision_config: {name} is not supported")
    heads, kv_heads = (integer(vision, f"num_{n}_heads") for n in ("attention", "key_value"))
    if heads != kv_heads:
        raise ModelConfigError(
            f"vision_config: num_key_value_heads {kv_heads} must be num_attention_heads {heads}"
        )
    if integer(vision, "head_dim") % 4:
        raise ModelConfigError(
            f"vision_config: head_dim {vision['head_dim']} is no multiple of four"
        )


def _theta(vision: HF) -> float:
    fields = vision.get("rope_parameters") or {}
    # By "default", older files mean what newer ones call "axial".
    is_axial = isinstance(fields, Mapping) and fields.get("rope_type") in _ROPE_TYPES
    if not is_axial:
        raise ModelConfigError(f"vision_config: rope_parameters {fields!s:.80} are not supported")
    return number(fields, "rope_theta", 100.0)


def _is_identity(hf: HF) -> bool:
    return hf.get("image_mean") == [0.0] * 3 and hf.get("image_std") == [1.0] * 3
