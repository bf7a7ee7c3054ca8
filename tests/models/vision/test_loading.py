"""The tower's weights by all the names that its tensors have, on meshes that split it or do not."""

from __future__ import annotations

import re

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from safetensors.numpy import save_file

from models.checkpoint.checkpoint import CheckpointError
from tests.golden import random_models
from tests.models.weights.test_loading import load

NAME = "gemma3-images"
CONFIG = random_models.WITH_IMAGES[NAME]


def newer(name):
    """As transformers 5 names it."""
    name = name.replace("language_model.model.", "language_model.")
    return "model." + name.replace("vision_tower.vision_model.", "vision_tower.")


NAMES = {
    "published": lambda name: name,
    "of transformers 5": newer,
    "half way": lambda name: newer(name).replace("vision_tower.", "vision_tower.vision_model."),
    "without a prefix": lambda name: name.replace("vision_tower.vision_model.", "vision_tower."),
}


@pytest.fixture(scope="module")
def tensors():
    return random_models.weights(NAME)


def write(folder, tensors):
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("rename", NAMES.values(), ids=NAMES)
def test_every_spelling_of_the_names_is_the_same_tower(tmp_path, tensors, rename):
    renamed = {rename(name): values for name, values in tensors.items()}
    found = load(write(tmp_path, renamed), CONFIG)
    layer = "vision_tower.vision_model.encoder.layers.2.mlp.fc1"
    assert_array_equal(found["vision.layers.up.kernel"][2], tensors[f"{layer}.weight"].T)
    assert_array_equal(found["vision.layers.up.bias"][2], tensors[f"{layer}.bias"])
    weight = tensors["multi_modal_projector.mm_soft_emb_norm.weight"]
    assert_array_equal(found["vision.projector.norm"], 1 + weight)


@pytest.mark.parametrize("rename", [lambda name: name, lambda name: name.removeprefix("model.")])
def test_gemma_4_s_names_are_found_with_their_prefix_and_without(tmp_path, rename):
    tensors = random_models.weights("gemma4-images")
    kept = {rename(n) if "language" not in n else n: each for n, each in tensors.items()}
    found = load(write(tmp_path, kept), random_models.WITH_IMAGES["gemma4-images"])
    tower, projection = "model.vision_tower", "model.embed_vision.embedding_projection.weight"
    layer = f"{tower}.encoder.layers.2"
    gate = tensors[f"{layer}.mlp.gate_proj.linear.weight"]
    assert_array_equal(found["vision.layers.gate.kernel"][2], gate.T)
    norm = tensors[f"{layer}.self_attn.q_norm.weight"]
    assert_array_equal(found["vision.layers.q_norm.scale"][2], norm)
    assert_array_equal(found["vision.projector.kernel"], tensors[projection].T)
    assert_array_equal(found["vision.projector.shift"], tensors[f"{tower}.std_bias"])


def test_a_head_that_nothing_uses_is_passed_over(tmp_path, tensors):
    head = {"vision_tower.vision_model.head.probe": np.ones((1, 1, 32), np.float32)}
    assert load(write(tmp_path, tensors | head), CONFIG)


def test_a_missing_part_is_named(tmp_path, tensors):
    missing = "vision_tower.vision_model.post_layernorm.bias"
    rest = {name: values for name, values in tensors.items() if name != missing}
    with pytest.raises(CheckpointError, match=re.escape(f"tensor {missing} is missing")):
        load(write(tmp_path, rest), CONFIG)


@pytest.mark.parametrize(("size", "is_split"), [(2, True), (4, True), (8, False)])
def test_heads_are_split_over_shards_that_divide_them(tmp_path, tensors, size, is_split):
    found = load(write(tmp_path, tensors), CONFIG, size=size)
    kernel = found["vision.layers.q.kernel"]
    assert kernel.sharding.is_fully_replicated is not is_split
    stored = tensors["vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight"]
    assert_array_equal(np.asarray(kernel)[0], stored.T)


def test_the_tower_stays_as_wide_as_it_is_where_matrices_become_int8(tmp_path, tensors):
    found = load(write(tmp_path, tensors), CONFIG, quantized=True)
    assert found["vision.layers.q.kernel"].dtype == np.float32
    assert found["layers.0.projections.q.kernel"].dtype == np.int8
