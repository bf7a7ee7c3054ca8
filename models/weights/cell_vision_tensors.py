"""Maps each leaf of Gemma 4's vision tower to its source, by the published tensor names."""

from __future__ import annotations

from typing import Any

from models.config import CellVisionConfig, ModelConfig
from models.weights.sources import Rows, Source, SplitInput, Whole

type Path = tuple[Any, ...]

# As the checkpoint gives the names of every tower.
_TOWER, _PROJECTOR = "vision_tower.vision_model", "embed_vision"
_NORMS = {
    "attention_norm": "input_layernorm",
    "attention_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}
_HEAD_NORMS = {"q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"}
_MATRICES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "output": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


def cell_vision_sources(path: Path, config: ModelConfig, vision: CellVisionConfig) -> list[Source]:
    """One source, or for a leaf of the layers one per layer. `path` is the place in the tower."""
    d = vision.hidden_size
    match path:
        case ("layers", part, *_):
            return [_of_layer(part, layer, vision) for layer in range(vision.num_layers)]
        case ("patches", "places"):
            name = f"{_TOWER}.patch_embedder.position_embedding_table"
            return [Whole(name, (2, vision.num_places, d))]
        case ("patches", _):
            shape = d, 3 * vision.patch_size**2
            return [Whole(f"{_TOWER}.patch_embedder.input_proj.weight", shape, transposed=True)]
        case (_, "shift"):
            return [Whole(f"{_TOWER}.std_bias", (d,))]
        case (_, "scale"):
            return [Whole(f"{_TOWER}.std_scale", (d,))]
        case _:
            name = f"{_PROJECTOR}.embedding_projection.weight"
            return [Whole(name, (config.hidden_size, d), transposed=True)]


def _of_layer(part: str, layer: int, vision: CellVisionConfig) -> Source:
    prefix, d = f"{_TOWER}.encoder.layers.{layer}", vision.hidden_size
    if part in _NORMS:
        return Whole(f"{prefix}.{_NORMS[part]}.weight", (d,))
    if part in _HEAD_NORMS:
        return Whole(f"{prefix}.{_HEAD_NORMS[part]}.weight", (vision.head_dim,))
    name, heads = f"{prefix}.{_MATRICES[part]}.linear.weight", vision.num_heads * vision.head_dim
    match part:
        case "output":
            return SplitInput(name, d, heads)
        case "down":
            return SplitInput(name, d, vision.mlp_size)
        case "gate" | "up":
            return Rows(name, vision.mlp_size, (d,))
        case _:
            return Rows(name, heads, (d,))
