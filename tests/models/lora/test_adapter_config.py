"""What an adapter_config.json says, and what is refused by the name of its setting."""

from __future__ import annotations

import json

import pytest

from models.lora.adapter_config import AdapterError, parse_adapter_config, read_adapter_config

PLAIN = {"peft_type": "LORA", "lora_alpha": 16, "bias": "none", "init_lora_weights": True}


def test_the_scale_is_alpha_by_rank_or_by_its_root():
    assert parse_adapter_config(PLAIN).scale("model.layers.0.mlp.up_proj", 8) == 2
    stabilized = parse_adapter_config(PLAIN | {"use_rslora": True})
    assert stabilized.scale("model.layers.0.mlp.up_proj", 4) == 8


def test_a_pattern_gives_the_alpha_of_modules_by_the_end_of_their_names():
    config = parse_adapter_config(PLAIN | {"alpha_pattern": {"layers.0.mlp.up_proj": 4}})
    assert config.scale("model.layers.0.mlp.up_proj", 2) == 2
    assert config.scale("model.layers.10.mlp.up_proj", 2) == 8


def test_a_dot_in_a_pattern_is_any_character_as_in_peft():
    config = parse_adapter_config(PLAIN | {"alpha_pattern": {"self.attn.q_proj": 4}})
    assert config.scale("model.layers.0.self_attn.q_proj", 2) == 2
    assert config.scale("model.layers.0.myself_attn.q_proj", 2) == 8


@pytest.mark.parametrize("value", [None, False])
def test_a_flag_may_be_left_out_or_false(value):
    assert not parse_adapter_config(PLAIN | {"use_rslora": value}).is_rank_stabilized


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"use_rslora": "false"}, "use_rslora is 'false'; it must be true or false"),
        ({"use_rslora": 1}, "use_rslora is 1; it must be true or false"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; only LORA"),
        ({"use_dora": True}, "use_dora is set .DoRA.*merge the adapter"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is set"),
        ({"target_parameters": ["experts"]}, "target_parameters is set"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4', which changed the model"),
        ({"alpha_pattern": {"(a|b)": 4}}, "no regular expressions"),
        ({"alpha_pattern": [1]}, "alpha_pattern must be an object"),
        ({"lora_alpha": 0}, "lora_alpha is 0; it must be a number above 0"),
        ({"lora_alpha": float("inf")}, "lora_alpha is inf"),
        ({"lora_alpha": True}, "lora_alpha is True"),
    ],
)
def test_what_would_change_the_answer_is_refused(fields, message):
    with pytest.raises(AdapterError, match=message):
        parse_adapter_config(PLAIN | fields)


def test_a_folder_without_the_file_or_with_another_is_refused(tmp_path):
    with pytest.raises(AdapterError, match=r"adapter_config\.json is missing"):
        read_adapter_config(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(AdapterError, match=r"adapter_config\.json"):
        read_adapter_config(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(PLAIN))
    assert read_adapter_config(tmp_path).alpha == 16
