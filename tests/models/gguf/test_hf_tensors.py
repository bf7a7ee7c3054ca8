from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from models.gguf.architectures import architecture_of
from models.gguf.config import model_config
from models.gguf.hf_tensors import rope_row_order, weights
from models.gguf.reader import GgufError, GgufFile
from tests.models.gguf.files import HEAD_DIM, HIDDEN, KV_HEADS, interleave, model_file


def planned(model, tmp_path):
    file = GgufFile(model.write(tmp_path / "m.gguf"))
    architecture = architecture_of(file)
    return weights(file, architecture, model_config(file, architecture))


def values(weight):
    return np.frombuffer(b"".join(weight.pieces()), ml_dtypes.bfloat16).reshape(weight.shape)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_every_weight_comes_back_as_it_was_in_bf16(tmp_path, architecture, tied):
    model = model_file(architecture, tied=tied)
    found = {weight.name: values(weight) for weight in planned(model, tmp_path)}
    assert found.keys() == model.weights.keys()
    for name, original in model.weights.items():
        assert_array_equal(found[name], original.astype(ml_dtypes.bfloat16), name)


def test_biases_of_a_llama_are_put_back_in_order_too(tmp_path):
    model = model_file()
    kv, q = KV_HEADS * HEAD_DIM, HIDDEN
    for layer in range(2):
        for name, size in {"q": q, "k": kv, "v": kv, "o": HIDDEN}.items():
            bias = np.arange(size, dtype=np.float32)
            model.weights[f"model.layers.{layer}.self_attn.{name}_proj.bias"] = bias
    found = {weight.name: values(weight) for weight in planned(model, tmp_path)}
    for name in "qkvo":
        bias = found[f"model.layers.1.self_attn.{name}_proj.bias"].astype(np.float32)
        assert_array_equal(bias, np.arange(len(bias)))


def test_the_row_order_undoes_the_interleaving():
    rows = np.arange(2 * HEAD_DIM, dtype=np.float32)
    order = rope_row_order(len(rows), HEAD_DIM)
    assert_array_equal(interleave(rows)[order], rows)
    assert not np.array_equal(interleave(rows), rows)


def test_rounding_is_to_the_nearest_and_ties_go_to_even(tmp_path):
    model = model_file()
    ulp = 2.0**-7
    norm = np.ones(HIDDEN, np.float32)
    norm[:4] = [1 + ulp / 2, 1 + 1.5 * ulp, 1 + 0.501 * ulp, 1 + 0.499 * ulp]
    model.weights["model.norm.weight"] = norm
    found = {weight.name: values(weight) for weight in planned(model, tmp_path)}
    expected = [1.0, 1 + 2 * ulp, 1 + ulp, 1.0]
    assert_array_equal(found["model.norm.weight"][:4].astype(np.float32), expected)


def test_pieces_are_of_bounded_size(tmp_path, monkeypatch):
    monkeypatch.setattr("models.gguf.hf_tensors._PIECE_ELEMENTS", 3 * HIDDEN)
    model = model_file()
    embedding = planned(model, tmp_path)[0]
    pieces = list(embedding.pieces())
    assert {len(piece) for piece in pieces[:-1]} == {3 * HIDDEN * 2}
    assert sum(map(len, pieces)) == embedding.num_bytes
    expected = model.weights["model.embed_tokens.weight"].astype(ml_dtypes.bfloat16)
    assert_array_equal(values(embedding), expected)


def test_a_missing_tensor_is_named(tmp_path):
    model = model_file()
    del model.weights["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(GgufError, match=r"no tensor blk\.1\.ffn_up\.weight"):
        planned(model, tmp_path)


def test_a_wrong_shape_is_named_with_the_right_one(tmp_path):
    model = model_file()
    model.weights["model.layers.1.mlp.up_proj.weight"] = np.zeros((95, HIDDEN), np.float32)
    with pytest.raises(GgufError, match=r"blk\.1\.ffn_up\.weight has shape \(95, 64\).*\(96, 64\)"):
        planned(model, tmp_path)


def test_a_tensor_without_a_place_is_named(tmp_path):
    model = model_file()
    model.extra_tensors["blk.0.ffn_gate_inp.weight"] = np.zeros((8, HIDDEN), np.float32)
    with pytest.raises(GgufError, match=r"blk\.0\.ffn_gate_inp\.weight"):
        planned(model, tmp_path)
