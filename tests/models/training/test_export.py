from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from models.checkpoint import manifest
from models.decoder.decoder import Decoder
from models.huggingface.config_file import parse_config
from models.training.export import hf_tensors, write_version
from models.training.figures import load_model
from models.training.loss import training_layout
from models.training.recipe import CONFIG
from models.training.vocabulary import train_tokenizer
from tests.golden import texts
from tests.models.checkpoints import tensor_shapes, write_checkpoint


@pytest.fixture(scope="module")
def model():
    return Decoder(nnx.Rngs(0), parse_config(CONFIG), training_layout())


@pytest.fixture(scope="module")
def written(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "1"
    write_version(model, train_tokenizer(texts.PYTHON, 300), folder)
    return folder


def folded(tensors, name):
    """The tensor with the norm before it folded in, which itself becomes ones."""
    layer, _, part = name.rpartition(".self_attn" if "self_attn" in name else ".mlp")
    if name.endswith("layernorm.weight"):
        return np.ones_like(tensors[name])
    if part.startswith((".q", ".k", ".v")):
        return tensors[name] * tensors[f"{layer}.input_layernorm.weight"]
    if part.startswith((".gate", ".up")):
        return tensors[name] * tensors[f"{layer}.post_attention_layernorm.weight"]
    return tensors[name]


def test_taking_apart_is_the_inverse_of_loading(tmp_path):
    expected = write_checkpoint(tmp_path)
    found = dict(hf_tensors(load_model(tmp_path)))
    assert found.keys() == expected.keys()
    assert all(np.allclose(found[name], folded(expected, name)) for name in expected)


def test_a_version_is_whole_and_holds_what_the_layout_asks_for(written):
    manifest.verify(written)
    assert {path.name for path in written.iterdir()} == {
        "antipode.json",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_weights_are_rounded_to_bfloat16(written, model):
    tensors = load_file(written / "model.safetensors")
    assert {name: tensor.shape for name, tensor in tensors.items()} == tensor_shapes(dict(CONFIG))
    for name, tensor in hf_tensors(model):
        assert np.array_equal(tensors[name], tensor.astype(ml_dtypes.bfloat16)), name


def test_generation_ends_at_the_end_of_a_text(written):
    generation = json.loads((written / "generation_config.json").read_text())
    assert generation == {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}


def test_a_version_takes_the_place_of_an_older_one(model, tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "stale.safetensors").touch()
    write_version(model, train_tokenizer(texts.PYTHON, 300), tmp_path / "1")
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    assert not (tmp_path / "1" / "stale.safetensors").exists()
