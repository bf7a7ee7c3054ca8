"""A GGUF file's tensors as the weights of a Hugging Face checkpoint: names, row order, bf16.

A weight is read only when its bytes are requested, in pieces of bounded size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from models.gguf.architectures import EMBEDDING, FINAL_NORM, HEAD, Architecture, TensorName
from models.gguf.reader import GgufError, GgufFile, GgufTensor
from models.gguf.rope import FREQUENCY_DIVISORS

_PIECE_ELEMENTS = 1 << 22
_BF16_BYTES = 2


@dataclass(frozen=True, slots=True)
class Weight:
    """One weight of the checkpoint. `row_order` lists the stored rows in their new order; `offset`
    is added to what is stored.
    """

    name: str
    tensor: GgufTensor
    row_order: NDArray[np.intp] | None = None
    offset: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * _BF16_BYTES

    def pieces(self) -> Iterator[bytes]:
        """The weight's bf16 bytes, row by row, rounded to the nearest (ties to even)."""
        step = max(1, _PIECE_ELEMENTS // math.prod(self.shape[1:]))
        for start in range(0, self.shape[0], step):
            rows = slice(start, start + step)
            index = rows if self.row_order is None else self.row_order[rows]
            values = self.tensor.rows(index) + np.float32(self.offset)
            yield values.astype(ml_dtypes.bfloat16).tobytes()


def weights(file: GgufFile, architecture: Architecture, config: dict[str, Any]) -> list[Weight]:
    """Every weight the checkpoint needs, in file order of a Hugging Face checkpoint.

    GgufError names a tensor that is missing, that has another shape than the config says, or that
    the architecture does not use.
    """
    names = _names(architecture, config)
    unknown = file.tensors.keys() - {name.gguf for name in names} - {FREQUENCY_DIVISORS}
    if unknown:
        raise GgufError(f"{file.path} has tensors the model does not: {sorted(unknown)[:8]}")
    sizes = _sizes(config)
    return [
        weight for name in names for weight in _weights(file, architecture, config, name, sizes)
    ]


def _names(architecture: Architecture, config: dict[str, Any]) -> list[TensorName]:
    per_layer = architecture.layer
    if config["attention_bias"]:
        per_layer += architecture.biases
    names = [EMBEDDING]
    for layer in range(config["num_hidden_layers"]):
        names += [
            TensorName(f"blk.{layer}.{n.gguf}", f"model.layers.{layer}.{n.hugging_face}", n.sizes)
            for n in per_layer
        ]
    names.append(FINAL_NORM)
    return names if config["tie_word_embeddings"] else [*names, HEAD]


def _sizes(config: dict[str, Any]) -> dict[str, int]:
    return {
        "D": config["hidden_size"],
        "Q": config["num_attention_heads"] * config["head_dim"],
        "K": config["num_key_value_heads"] * config["head_dim"],
        "H": config["head_dim"],
        "F": config["intermediate_size"],
        "V": config["vocab_size"],
        "E": config.get("num_experts", 0),
        "M": config.get("moe_intermediate_size", 0),
    }


def _weights(
    file: GgufFile,
    architecture: Architecture,
    config: dict[str, Any],
    name: TensorName,
    sizes: dict[str, int],
) -> list[Weight]:
    """The weights of one tensor of the file: one, or one for each expert."""
    if name.gguf not in file.tensors:
        raise GgufError(f"{file.path} has no tensor {name.gguf}")
    tensor = file.tensors[name.gguf]
    shape = tuple(sizes[letter] for letter in name.sizes)
    if tensor.shape != shape:
        raise GgufError(f"tensor {name.gguf} has shape {tensor.shape}, the metadata says {shape}")
    if len(shape) > 2:
        return [Weight(name.hugging_face.format(i), tensor.part(i)) for i in range(shape[0])]
    rotated = ".attn_q." in name.gguf or ".attn_k." in name.gguf
    order = None
    if architecture.interleaved_rope and rotated:
        order = rope_row_order(shape[0], config["head_dim"])
    is_norm = name.hugging_face.endswith("norm.weight")
    offset = -1.0 if architecture.unit_offset and is_norm else 0.0
    return [Weight(name.hugging_face, tensor, order, offset)]


def rope_row_order(num_rows: int, head_dim: int) -> NDArray[np.intp]:
    """For each row of Hugging Face's q or k weight, the row's index in llama.cpp's.

    llama.cpp rotates neighbours (0, 1), (2, 3), ... of a head; Hugging Face rotates the first half
    against the second.
    """
    rows = np.arange(num_rows).reshape(-1, head_dim // 2, 2)
    return rows.swapaxes(1, 2).reshape(num_rows)
