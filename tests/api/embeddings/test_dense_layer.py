"""Dense layers by sentence-transformers' files: what they compute, and which are refused."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from server.api.embeddings.dense_layer import DenseLayerError, read_dense_layer
from server.api.embeddings.embedding_recipe import read_recipe
from server.api.requests.embedding import pool

WEIGHT = np.array([[1, -2], [0.5, 3], [-1, 1]], np.float32)
BIAS = np.array([0.25, -1, 2], np.float32)
LINEAR = {"in_features": 2, "out_features": 3, "bias": True}


@pytest.fixture
def folder(tmp_path):
    """A function that writes the layer `2_Dense`."""

    def write(tensors=None, path="2_Dense", **config):
        (tmp_path / path).mkdir()
        (tmp_path / path / "config.json").write_text(json.dumps(LINEAR | config))
        tensors = tensors or {"linear.weight": WEIGHT, "linear.bias": BIAS}
        save_file(tensors, tmp_path / path / "model.safetensors")
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("torch.nn.modules.linear.Identity", [-2.75, 5.5, 3]),
        ("torch.nn.modules.activation.Tanh", np.tanh([-2.75, 5.5, 3])),
        ("torch.nn.modules.activation.ReLU", [0, 5.5, 3]),
    ],
)
def test_a_layer_is_a_matrix_a_bias_and_an_activation(folder, activation, expected):
    layer = read_dense_layer(folder(activation_function=activation), "2_Dense")
    assert layer.sizes == (2, 3)
    assert np.allclose(layer(np.array([1, 2], np.float32)), expected)


def test_a_layer_in_bfloat16_without_a_bias(folder):
    tensors = {"linear.weight": WEIGHT.astype(ml_dtypes.bfloat16)}
    layer = read_dense_layer(folder(tensors, bias=False), "2_Dense")
    assert np.allclose(layer(np.array([1, 2], np.float32)), np.tanh([-3, 6.5, 1]))


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"activation_function": "torch.nn.GELU"}, "activation GELU"),
        ({"out_features": 4}, "its config.json asks for"),
        ({"bias": False}, "its config.json asks for"),
        ({"module_output_name": "token_embeddings"}, "module_output_name"),
        ({"in_features": None}, "its config.json asks for"),
    ],
)
def test_a_layer_that_cannot_be_followed_is_refused_by_name(folder, config, named):
    with pytest.raises(DenseLayerError, match=named):
        read_dense_layer(folder(**config), "2_Dense")


def test_layers_follow_the_mean_and_the_cut_and_the_norm_follow_them(folder):
    kinds = ("Transformer", "Pooling", "Dense", "Normalize")
    root = folder(activation_function="torch.nn.modules.linear.Identity")
    modules = [{"path": f"{i}_{kind}", "type": f"x.{kind}"} for i, kind in enumerate(kinds)]
    (root / "modules.json").write_text(json.dumps(modules))
    (root / "config.json").write_text(json.dumps({"hidden_size": 2}))
    (root / "1_Pooling").mkdir()
    (root / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "mean"}))
    recipe = read_recipe(root, "auto")
    assert (recipe.refusal, recipe.size, recipe.pooling) == ("", 3, "mean")
    parts = [np.array(part, "<f4").tobytes() for part in ([3, 2], [0, 6])]
    found = pool(parts, 3, "mean", layers=recipe.dense, dimensions=2, normalizes=True)
    whole = WEIGHT @ np.array([1, 8 / 3]) + BIAS
    assert np.allclose(found, whole[:2] / np.linalg.norm(whole[:2]))
    (root / "config.json").write_text(json.dumps({"hidden_size": 4}))
    assert "takes vectors of 2 numbers, but gets 4" in read_recipe(root, "auto").refusal
