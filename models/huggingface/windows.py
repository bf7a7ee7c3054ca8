"""Reads each layer's window of attention from a Hugging Face config.json.

Knows no architectures: one that has a rule of its own passes it.
"""

from __future__ import annotations

from collections.abc import Callable

from models.config import ModelConfigError
from models.huggingface.fields import HF, integer


def window_of(hf: HF) -> int | None:
    return None if hf.get("sliding_window") is None else integer(hf, "sliding_window")


def layer_windows(hf: HF, local: Callable[[int], bool]) -> tuple[int | None, ...]:
    """Each layer's window, from `layer_types` if given, else by the architecture's rule."""
    num_layers, window = integer(hf, "num_hidden_layers"), window_of(hf)
    by_rule = [
        "sliding_attention" if local(layer) else "full_attention" for layer in range(num_layers)
    ]
    kinds = by_rule if hf.get("layer_types") in (None, []) else hf["layer_types"]
    if not isinstance(kinds, list) or len(kinds) != num_layers:
        raise ModelConfigError(f"config.json: layer_types must list {num_layers} layers")
    known = ("sliding_attention", "full_attention")
    if unknown := sorted({str(kind) for kind in kinds if kind not in known}):
        raise ModelConfigError(f"layer types {unknown} are not supported")
    if window is None and "sliding_attention" in kinds:
        raise ModelConfigError("config.json: sliding_window must be set where layers slide")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)
