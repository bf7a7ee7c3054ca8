from __future__ import annotations

import pytest

from models.config import ModelConfigError
from models.presets import load_preset, preset_names
from models.sharding import allowed_tensor_sizes


def test_every_promised_model_is_there():
    assert set(preset_names()) == {
        "gemma-2-9b", "gemma-3-12b", "gemma-3-1b", "gemma-3-27b", "gemma-3-4b", "gemma-4-26b-a4b",
        "gemma-4-31b", "llama-3.1-8b", "llama-3.3-70b", "mistral-7b", "qwen3-30b-a3b", "qwen3-32b",
        "qwen3-8b",
    }  # fmt: skip


def attention_parameters(config):
    made = 1 if config.keys_as_values else 2
    heads = 2 * config.num_heads + made * config.num_kv_heads
    return config.hidden_size * config.head_dim * heads


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("gemma-2-9b", 9.24),
        ("gemma-3-12b", 11.8),
        ("gemma-3-1b", 1.0),
        ("gemma-3-27b", 27.0),
        ("gemma-3-4b", 3.88),
        ("gemma-4-26b-a4b", 25.2),
        ("gemma-4-31b", 30.7),
        ("llama-3.1-8b", 8.03),
        ("llama-3.3-70b", 70.6),
        ("mistral-7b", 7.25),
        ("qwen3-30b-a3b", 30.5),
        ("qwen3-32b", 32.8),
        ("qwen3-8b", 8.19),
    ],
)
def test_a_preset_has_as_many_parameters_as_was_published(name, billions):
    config = load_preset(name).config
    moe = config.moe
    width = 0 if moe is None else moe.num_experts * moe.expert_size
    if moe is None or moe.beside_mlp:
        width += config.mlp_size
    mlps = config.num_layers * 3 * config.hidden_size * width
    attention = sum(map(attention_parameters, map(config.of_layer, range(config.num_layers))))
    tables = 1 if config.tie_embeddings else 2
    total = attention + mlps + tables * config.vocab_size * config.hidden_size
    assert total / 1e9 == pytest.approx(billions, rel=0.01)


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_divides_over_the_chips_it_is_recommended_for(name):
    preset = load_preset(name)
    rows, columns = preset.recommended.slice.split(":")[1].split("x")
    assert int(rows) * int(columns) in allowed_tensor_sizes(preset.config, 16)


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(ModelConfigError, match=r"'gpt-7' is no preset; these are: gemma-2-9b, .*"):
        load_preset("gpt-7")
