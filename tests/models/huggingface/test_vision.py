"""What a configuration says of the tower, and which towers are refused or passed over."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from models.config import ModelConfigError, VisionConfig
from models.huggingface.config_file import parse_config, read_config
from tests.models.huggingface.test_config_file import MISTRAL, VISION

# As published: fields of the class's defaults are left out.
TOWER = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "image_size": 896,
    "intermediate_size": 4304,
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
    "patch_size": 14,
    "vision_use_head": False,
}
GEMMA = VISION | {"mm_tokens_per_image": 256, "vision_config": TOWER}


def with_tower(**changes):
    return GEMMA | {"vision_config": TOWER | changes}


def test_the_published_tower_is_read():
    assert parse_config(GEMMA).vision == VisionConfig(
        hidden_size=1152,
        num_layers=27,
        num_heads=16,
        mlp_size=4304,
        image_size=896,
        patch_size=14,
        num_tokens=256,
        norm_eps=1e-6,
    )
    assert parse_config(GEMMA).vision.patches_per_side == 64


@pytest.mark.parametrize(
    "hf",
    [
        VISION,
        with_tower(model_type="clip_vision_model"),
        MISTRAL | {"vision_config": TOWER},
    ],
)
def test_without_a_tower_that_is_served_the_model_is_one_of_text(hf):
    assert parse_config(hf).vision is None


@pytest.mark.parametrize(
    ("hf", "reason"),
    [
        (with_tower(hidden_act="gelu"), "hidden_act 'gelu' is unsupported"),
        (with_tower(num_attention_heads=5), "num_attention_heads 5 does not divide hidden_size"),
        (with_tower(image_size=900), "does not divide an image of 900 pixels"),
        (GEMMA | {"mm_tokens_per_image": 200}, "mm_tokens_per_image 200 does not divide"),
        (GEMMA | {"mm_tokens_per_image": 225}, "mm_tokens_per_image 225 does not divide"),
        (with_tower(num_hidden_layers=0), "num_hidden_layers must be a positive integer"),
    ],
)
def test_what_the_tower_does_not_compute_is_refused_by_name(hf, reason):
    with pytest.raises(ModelConfigError, match=reason):
        parse_config(hf)


def read(folder, preprocessor):
    (folder / "config.json").write_text(json.dumps(GEMMA))
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return read_config(folder).vision


def test_colours_are_read_as_the_preprocessor_says(tmp_path):
    vision = read(tmp_path, {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3]})
    assert (vision.mean, vision.std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    vision = read(tmp_path, {"do_normalize": False, "image_mean": [0.1, 0.2, 0.3]})
    assert (vision.mean, vision.std) == ((0.0,) * 3, (1.0,) * 3)
    vision = read(tmp_path, {})
    assert (vision.mean, vision.std) == ((0.5,) * 3, (0.5,) * 3)


def test_the_file_of_newer_tools_says_the_same(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(GEMMA))
    processor = {"image_processor": {"image_mean": [0.1, 0.2, 0.3]}, "image_seq_length": 256}
    (tmp_path / "processor_config.json").write_text(json.dumps(processor))
    assert read_config(tmp_path).vision.mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    ("preprocessor", "reason"),
    [
        ({"image_mean": 0.5}, "image_mean must be 3 numbers"),
        ({"image_std": [1, 0, 1]}, "image_std must be positive"),
        ({"image_std": [1, "a", 1]}, "image_std must be 3 numbers"),
    ],
)
def test_colours_that_cannot_be_read_are_refused(tmp_path, preprocessor, reason):
    with pytest.raises(ModelConfigError, match=reason):
        read(tmp_path, preprocessor)


@pytest.mark.parametrize("name", ["vision_tower.post_layernorm.bias", "language_model.norm.weight"])
def test_a_folder_whose_index_names_no_tower_is_one_of_text(tmp_path, name):
    index = {"weight_map": {name: "model.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert (read(tmp_path, {}) is not None) is name.startswith("vision_tower")


@pytest.mark.parametrize("name", ["vision_tower.post_layernorm.bias", "language_model.norm.weight"])
def test_one_file_without_a_tower_is_of_text_too(tmp_path, name):
    save_file({name: np.ones(1, np.float32)}, tmp_path / "model.safetensors")
    assert (read(tmp_path, {}) is not None) is name.startswith("vision_tower")
