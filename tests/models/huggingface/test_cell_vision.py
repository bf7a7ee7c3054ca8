"""What Gemma 4's configuration says of its tower, and which towers are refused or passed over."""

from __future__ import annotations

import json

import pytest

from models.config import CellVisionConfig, ModelConfigError
from models.huggingface.config_file import parse_config, read_config
from tests.golden.configs import WITH_IMAGES

SMALL = WITH_IMAGES["gemma4-images"]
# As published with 26B-A4B and 31B: fields of the class's defaults are left out.
TOWER = {
    "model_type": "gemma4_vision",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 72,
    "standardize": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
}


def with_tower(**changes):
    return SMALL | {"vision_config": TOWER | changes}


def with_text(**changes):
    return SMALL | {"text_config": SMALL["text_config"] | changes}


def test_the_published_tower_is_read():
    vision = parse_config(with_tower()).vision
    assert vision == parse_config(with_tower(rope_parameters=None)).vision
    assert vision == CellVisionConfig(
        hidden_size=1152,
        num_layers=27,
        num_heads=16,
        head_dim=72,
        mlp_size=4304,
        patch_size=16,
        cell_patches=3,
        num_tokens=280,
        num_places=10_240,
        norm_eps=1e-6,
        rope_theta=100.0,
        standardizes=True,
        local_sight=True,
    )
    assert (vision.sizes.cell, vision.sizes.num_tokens) == (48, 280)


@pytest.mark.parametrize(
    ("sight", "local", "of_global"), [("vision", True, False), (None, False, False)]
)
def test_an_image_s_tokens_see_one_another_in_local_layers_where_the_text_says_so(
    sight, local, of_global
):
    vision = parse_config(with_text(use_bidirectional_attention=sight)).vision
    assert vision.sees_image(1024) == local
    assert vision.sees_image(None) == of_global


@pytest.mark.parametrize(
    "hf",
    [
        SMALL | {"vision_config": None},
        with_tower(model_type="gemma4_unified_vision"),
        SMALL | {"architectures": ["Gemma4UnifiedForConditionalGeneration"]},
    ],
)
def test_without_a_tower_that_is_served_the_model_is_one_of_text(hf):
    assert parse_config(hf).vision is None


@pytest.mark.parametrize(
    ("hf", "reason"),
    [
        (with_tower(hidden_activation="gelu"), "hidden_activation 'gelu' is unsupported"),
        (with_tower(use_clipped_linears=True), "use_clipped_linears is not supported"),
        (with_tower(num_key_value_heads=4), "num_key_value_heads 4 must be num_attention_heads"),
        (with_tower(head_dim=70), "head_dim 70 is no multiple of four"),
        (with_tower(rope_parameters={"rope_type": "yarn"}), "rope_parameters .* not supported"),
        (
            with_tower(use_clipped_linears=True)
            | {"text_config": SMALL["text_config"] | {"hidden_size_per_layer_input": 256}},
            "hidden_size_per_layer_input",
        ),
    ],
)
def test_what_is_not_computed_is_refused_by_name(hf, reason):
    with pytest.raises(ModelConfigError, match=reason):
        parse_config(hf)


def read(folder, processor):
    (folder / "config.json").write_text(json.dumps(SMALL))
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": processor}))
    return read_config(folder)


def test_the_image_processor_says_how_many_tokens_an_image_may_be(tmp_path):
    assert read(tmp_path, {"max_soft_tokens": 20}).vision.num_tokens == 20


def test_a_tower_without_places_for_such_images_is_passed_over(tmp_path):
    assert read(tmp_path, {"max_soft_tokens": 21}).vision is None


@pytest.mark.parametrize(
    ("processor", "reason"),
    [
        ({"patch_size": 16}, "patch_size is 16, but the model's is 4"),
        ({"pooling_kernel_size": 3}, "pooling_kernel_size is 3, but the model's is 2"),
        ({"do_normalize": True, "image_mean": [0.5] * 3}, "do_normalize"),
    ],
)
def test_a_processor_that_is_not_the_model_s_is_refused(tmp_path, processor, reason):
    with pytest.raises(ModelConfigError, match=reason):
        read(tmp_path, {"max_soft_tokens": 20} | processor)
