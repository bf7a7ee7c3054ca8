"""A dense layer between a model's pooled hidden state and its vector, in float32 on the host.

sentence-transformers' module `Dense`: a matrix, perhaps a bias, and an activation. Its files are
read once; the layer then costs a text about as much as writing its vector. Knows no pooling.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (safetensors reads bfloat16 with it)
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

type Array = np.ndarray[Any, np.dtype[np.float32]]

_WEIGHTS = "model.safetensors"
_ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "Identity": lambda x: x,
    "Tanh": np.tanh,
    "ReLU": lambda x: np.maximum(x, np.float32(0)),
}


class DenseLayerError(ValueError):
    """A layer that cannot be followed; the message names its folder and the reason."""


@dataclass(frozen=True, slots=True, eq=False)
class DenseLayer:
    """`weight` is [out, in], `bias` [out]; `activation` is the name of PyTorch's module."""

    weight: Array
    bias: Array
    activation: str

    @property
    def sizes(self) -> tuple[int, int]:
        """The size of what goes in, and of what comes out."""
        return self.weight.shape[1], self.weight.shape[0]

    def __call__(self, x: Array) -> Array:
        return _ACTIVATIONS[self.activation](self.weight @ x + self.bias)


def read_dense_layer(checkpoint: Path, path: str) -> DenseLayer:
    """The layer in the folder `path` of a checkpoint. Raises DenseLayerError."""
    try:
        config = json.loads((checkpoint / path / "config.json").read_text(encoding="utf-8"))
        sizes = config["in_features"], config["out_features"]
        activation = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
        tensors = load_file(checkpoint / path / _WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise DenseLayerError(f"{path} cannot be read: {error!r}") from error
    if activation not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise DenseLayerError(f"{path} has the activation {activation}; supported are {known}")
    _check_keys(path, config)
    return _layer(path, sizes, bool(config.get("bias", True)), activation, tensors)


def _check_keys(path: str, config: Mapping[str, Any]) -> None:
    """Refuse a layer that works on something else than the pooled vector."""
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise DenseLayerError(f"{path} has {key} {config[key]!r}, which is not supported")


def _layer(
    path: str,
    sizes: tuple[int, int],
    has_bias: bool,
    activation: str,
    tensors: Mapping[str, np.ndarray],
) -> DenseLayer:
    expected = {"linear.weight": sizes[::-1]} | ({"linear.bias": sizes[1:]} if has_bias else {})
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if found != expected:
        raise DenseLayerError(f"{path}/{_WEIGHTS} has {found}, its config.json asks for {expected}")
    wide = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    bias = wide.get("linear.bias", np.zeros(sizes[1], np.float32))
    return DenseLayer(wide["linear.weight"], bias, activation)
