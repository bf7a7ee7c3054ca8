"""Maps each leaf of a vision tower to its source, by the published tensor names."""

from __future__ import annotations

from typing import Any

from models.config import CellVisionConfig, ModelConfig, VisionConfig
from models.weights.cell_vision_tensors import cell_vision_sources
from models.weights.sources import Norm, Rows, Source, SplitInput, Whole

type Path = tuple[Any, ...]

_TOWER, _PROJECTOR = "vision_tower.vision_model", "multi_modal_projector"
_NORMS = {"attention_norm": "layer_norm1", "mlp_norm": "layer_norm2"}
_MATRICES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "output": "self_attn.out_proj",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
}


def vision_sources(path: Path, config: ModelConfig) -> list[Source]:
    """One source, or for a leaf of the layers one per layer. `path` is the place in the tower."""
    vision = config.vision
    assert vision is not None
    if isinstance(vision, CellVisionConfig):
        return cell_vision_sources(path, config, vision)
    match path:
        case ("layers", *inner):
            return [_of_layer(tuple(inner), layer, vision) for layer in range(vision.num_layers)]
        case ("patches", leaf):
            return [_of_patches(leaf, vision)]
        case ("norm", leaf):
            return [_norm("post_layernorm", leaf, vision.hidden_size)]
        case (_, "norm"):
            return [Norm(f"{_PROJECTOR}.mm_soft_emb_norm.weight", vision.hidden_size, True)]
        case _:
            shape = vision.hidden_size, config.hidden_size
            return [Whole(f"{_PROJECTOR}.mm_input_projection_weight", shape)]


def _of_patches(leaf: str, vision: VisionConfig) -> Source:
    d, size = vision.hidden_size, vision.patch_size
    if leaf == "places":
        shape = vision.patches_per_side**2, d
        return Whole(f"{_TOWER}.embeddings.position_embedding.weight", shape)
    name = f"{_TOWER}.embeddings.patch_embedding"
    if leaf == "bias":
        return Whole(f"{name}.bias", (d,))
    return Whole(f"{name}.weight", (d, 3, size, size))


def _of_layer(path: Path, layer: int, vision: VisionConfig) -> Source:
    part, leaf = path
    prefix, d = f"encoder.layers.{layer}", vision.hidden_size
    if part in _NORMS:
        return _norm(f"{prefix}.{_NORMS[part]}", leaf, d)
    name = f"{_TOWER}.{prefix}.{_MATRICES[part]}"
    in_size, out_size = (vision.mlp_size if part == p else d for p in ("down", "up"))
    match part, leaf:
        case "output" | "down", "bias":
            return Whole(f"{name}.bias", (out_size,))
        case "output" | "down", _:
            return SplitInput(f"{name}.weight", out_size, in_size)
        case _, "bias":
            return Rows(f"{name}.bias", out_size, ())
        case _:
            return Rows(f"{name}.weight", out_size, (in_size,))


def _norm(name: str, leaf: str, size: int) -> Source:
    return Whole(f"{_TOWER}.{name}.{'weight' if leaf == 'scale' else 'bias'}", (size,))
