"""Maps each leaf of a recurrent layer's mixer to its source: a gated delta net of Qwen3.5.

Knows neither the rest of the layer nor what the leaves compute.
"""

from __future__ import annotations

import numpy as np

from models.config import ModelConfig
from models.weights.sources import (
    Folded,
    Joined,
    Mapped,
    Norm,
    Rows,
    Source,
    SplitInput,
    sections,
)


def mixer_source(name: str, leaf: str, config: ModelConfig, norm: Norm) -> Source:
    """The source of a leaf of the mixer whose tensors begin with `name`.

    `norm` is the one before the layer; it is folded into what reads the layer's input.
    """
    of, d = config.recurrence, config.hidden_size
    assert of is not None
    mixed = (of.key_size, of.key_size, of.value_size)
    match leaf:
        case "inputs":
            qkv, z = f"{name}.in_proj_qkv.weight", f"{name}.in_proj_z.weight"
            parts = sections((qkv, mixed), (z, (of.value_size,)))
            return Folded(Joined(parts, (d,)), norm)
        case "gates":
            heads = (of.num_value_heads,)
            b, a = f"{name}.in_proj_b.weight", f"{name}.in_proj_a.weight"
            return Folded(Joined(sections((b, heads), (a, heads)), (d,)), norm)
        case "conv":
            parts = sections((f"{name}.conv1d.weight", mixed))
            return Mapped(Joined(parts, (1, of.conv_size)), lambda w: np.squeeze(w, axis=1))
        case "log_rate":
            return Rows(f"{name}.A_log", of.num_value_heads, ())
        case "rate_bias":
            return Rows(f"{name}.dt_bias", of.num_value_heads, ())
        case "norm":
            return Norm(f"{name}.norm.weight", of.value_dim, unit_offset=False)
        case _:
            return SplitInput(f"{name}.out_proj.weight", d, of.value_size)
