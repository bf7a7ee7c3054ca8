"""Which tensors an adapter's file holds: the layer and matrix of each, and its shape.

Every tensor must be one of a pair for a matrix that the decoder has. Reads headers only; the
numbers are read by `slot_values`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

from models.config import ModelConfig
from models.lora.adapter_config import AdapterError

WEIGHTS_NAME = "adapter_model.safetensors"

type Matrix = Literal["q", "k", "v", "o", "gate", "up", "down"]

_PREFIXES = ("", "model.", "language_model.model.", "model.language_model.")
_NAME = re.compile(
    r"(?:base_model\.model\.)?(?P<module>(?P<prefix>(?:[a-z_]+\.)*)layers\.(?P<layer>\d{1,4})\."
    r"(?:self_attn\.(?P<attention>[qkvo])|mlp\.(?P<mlp>gate|up|down))_proj)"
    r"\.lora_(?P<side>[AB])(?:\.default)?\.weight"
)
_SERVED = "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"


@dataclass(slots=True)
class Pair:
    """The two tensors of one matrix: A [rank, in] and B [out, rank]. `module` is PEFT's name."""

    module: str
    names: dict[str, str] = field(default_factory=dict)
    rank: int = 0


type Pairs = dict[tuple[int, Matrix], Pair]


def matrix_sizes(config: ModelConfig) -> dict[Matrix, tuple[int, int]]:
    """Inputs and outputs of every matrix of a kind of layers that an adapter may change."""
    d, f, h = config.hidden_size, config.mlp_size, config.head_dim
    heads, kv_heads = config.num_heads * h, config.num_kv_heads * h
    sizes: dict[Matrix, tuple[int, int]] = {
        "q": (d, heads), "k": (d, kv_heads), "v": (d, kv_heads), "o": (heads, d),
    }  # fmt: skip
    if config.keys_as_values:
        del sizes["v"]
    if config.moe is None:
        sizes |= {"gate": (d, f), "up": (d, f), "down": (f, d)}
    return sizes


def find_pairs(shapes: Mapping[str, tuple[int, ...]], config: ModelConfig, max_rank: int) -> Pairs:
    """The pairs of tensors, by layer and matrix. AdapterError for what is not served."""
    pairs: Pairs = {}
    for name, shape in shapes.items():
        layer, matrix, side, module = _parse(name, config)
        pair = pairs.setdefault((layer, matrix), Pair(module))
        if side in pair.names:
            raise AdapterError(f"{WEIGHTS_NAME}: {module} has two tensors lora_{side}")
        pair.names[side] = name
        _check_shape(name, shape, matrix, side, config.of_layer(layer))
        rank = shape[0] if side == "A" else shape[1]
        if rank > max_rank:
            raise AdapterError(
                f"{WEIGHTS_NAME}: tensor {name} has rank {rank}, but slots have rank {max_rank}:"
                " raise max_lora_rank"
            )
        if pair.rank not in (0, rank):
            raise AdapterError(f"{WEIGHTS_NAME}: {module} has ranks {pair.rank} and {rank}")
        pair.rank = rank
    _check_complete(pairs)
    return pairs


def _parse(name: str, config: ModelConfig) -> tuple[int, Matrix, str, str]:
    found = _NAME.fullmatch(name)
    if found is None or found["prefix"] not in _PREFIXES:
        raise AdapterError(
            f"{WEIGHTS_NAME}: tensor {name[:300]!r} changes no matrix that an adapter may change;"
            f" these are {_SERVED} of the decoder's layers"
        )
    matrix = cast(Matrix, found["attention"] or found["mlp"])
    layer = int(found["layer"])
    if layer >= config.num_layers:
        raise AdapterError(
            f"{WEIGHTS_NAME}: tensor {name} is of layer {layer}, but the model has"
            f" {config.num_layers} layers"
        )
    if matrix not in matrix_sizes(config.of_layer(layer)):
        why = (
            f"of values, but layer {layer} makes keys and values with one matrix, its k_proj"
            if matrix == "v"
            else "of an MLP, but the model has experts"
        )
        raise AdapterError(f"{WEIGHTS_NAME}: tensor {name} is {why}")
    return layer, matrix, found["side"], found["module"]


def _check_shape(
    name: str, shape: tuple[int, ...], matrix: Matrix, side: str, config: ModelConfig
) -> None:
    in_size, out_size = matrix_sizes(config)[matrix]
    wanted = f"[rank, {in_size}]" if side == "A" else f"[{out_size}, rank]"
    fits = len(shape) == 2 and shape[1 if side == "A" else 0] == (
        in_size if side == "A" else out_size
    )
    if not fits or not min(shape):
        raise AdapterError(
            f"{WEIGHTS_NAME}: tensor {name} has shape {list(shape)}, but this model's is {wanted};"
            " was the adapter trained on another model?"
        )


def _check_complete(pairs: Pairs) -> None:
    if not pairs:
        raise AdapterError(f"{WEIGHTS_NAME} holds no tensor")
    for pair in pairs.values():
        if len(pair.names) != 2:
            side = "B" if "A" in pair.names else "A"
            raise AdapterError(f"{WEIGHTS_NAME}: {pair.module} has no tensor lora_{side}")
