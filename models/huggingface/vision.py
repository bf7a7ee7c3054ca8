"""Reads the tower of a multimodal checkpoint from its config.json and preprocessor_config.json.

A field that the tower does not compute is refused by name. Knows neither files nor weights.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from models.config import (
    AnyVisionConfig,
    CellVisionConfig,
    ModelConfig,
    ModelConfigError,
    VisionConfig,
)
from models.huggingface.cell_vision import parse_cell_vision, with_cell_processor
from models.huggingface.fields import HF, integer, number
from models.huggingface.tower_fields import check_activation, tower_fields

# The second is what newer tools write, and read first: it has the fields of the first under
# `image_processor`.
PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
# The architectures whose images are served, if they have this kind of tower.
_ARCHITECTURES = ("Gemma3ForConditionalGeneration",)
_TOWER = "siglip_vision_model"
_CHANNELS = 3
# What a SigLIP configuration leaves out.
_DEFAULTS: Mapping[str, Any] = {
    "model_type": _TOWER,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu_pytorch_tanh",
}


def parse_vision(architecture: str, hf: HF) -> AnyVisionConfig | None:
    """The tower of a config.json; None where the checkpoint has none that is served."""
    return _parse_siglip(architecture, hf) or parse_cell_vision(architecture, hf)


def _parse_siglip(architecture: str, hf: HF) -> VisionConfig | None:
    vision = tower_fields(hf, _DEFAULTS) if architecture in _ARCHITECTURES else None
    if vision is None:
        return None
    check_activation(vision, "hidden_act", _DEFAULTS)
    config = VisionConfig(
        hidden_size=integer(vision, "hidden_size"),
        num_layers=integer(vision, "num_hidden_layers"),
        num_heads=integer(vision, "num_attention_heads"),
        mlp_size=integer(vision, "intermediate_size"),
        image_size=integer(vision, "image_size"),
        patch_size=integer(vision, "patch_size"),
        num_tokens=integer(hf, "mm_tokens_per_image", 256),
        norm_eps=number(vision, "layer_norm_eps"),
    )
    _check(config)
    return config


def has_tower(names: Collection[str]) -> bool:
    """Whether tensors with these names have a tower among them; a copy may be of the text only."""
    return any("vision_tower." in name for name in names)


def with_preprocessor(config: ModelConfig, hf: Any) -> ModelConfig:
    """The model with what a preprocessor_config.json says of images: colours or sizes."""
    vision, fields = config.vision, hf if isinstance(hf, Mapping) else {}
    match vision:
        case VisionConfig() if isinstance(hf, Mapping):
            return replace(config, vision=_with_colours(vision, fields))
        case CellVisionConfig():
            return replace(config, vision=with_cell_processor(vision, fields))
    return config


def _with_colours(vision: VisionConfig, hf: HF) -> VisionConfig:
    normalizes = hf.get("do_normalize")
    if not isinstance(normalizes, bool | None):
        raise ModelConfigError(
            f"{PREPROCESSOR}: do_normalize must be true or false, not {normalizes!r}"
        )
    if normalizes is False:
        mean, std = (0.0,) * _CHANNELS, (1.0,) * _CHANNELS
    else:
        mean = _colours(hf, "image_mean", vision.mean)
        std = _colours(hf, "image_std", vision.std)
    if min(std) <= 0:
        raise ModelConfigError(f"{PREPROCESSOR}: image_std must be positive, not {list(std)}")
    return replace(vision, mean=mean, std=std)


def _check(config: VisionConfig) -> None:
    if config.hidden_size % config.num_heads:
        raise ModelConfigError(
            f"vision_config: num_attention_heads {config.num_heads} does not divide hidden_size"
            f" {config.hidden_size}"
        )
    side = math.isqrt(config.num_tokens)
    is_whole = config.image_size % config.patch_size == 0 and side**2 == config.num_tokens
    if not is_whole or config.patches_per_side % side:
        raise ModelConfigError(
            f"mm_tokens_per_image {config.num_tokens} does not divide an image of"
            f" {config.image_size} pixels in patches of {config.patch_size} into equal squares"
        )


def _colours(hf: HF, key: str, default: tuple[float, ...]) -> tuple[float, ...]:
    value = hf.get(key, default)
    is_list = isinstance(value, list | tuple) and len(value) == _CHANNELS
    if not is_list or not all(isinstance(each, int | float) for each in value):
        raise ModelConfigError(f"{PREPROCESSOR}: {key} must be {_CHANNELS} numbers, not {value!r}")
    return tuple(map(float, value))
