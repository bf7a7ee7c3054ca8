from __future__ import annotations

import pytest
from transformers import AutoConfig

from models.checkpoint import manifest
from models.gguf.architectures import architecture_of
from models.gguf.config import generation_config, model_config
from models.gguf.reader import GgufError, GgufFile
from tests.models.gguf.files import CONTROL, TOKENS, model_file


def config_of(model, tmp_path):
    file = GgufFile(model.write(tmp_path / "m.gguf"))
    return model_config(file, architecture_of(file))


def test_sizes_come_from_the_metadata(tmp_path):
    config = config_of(model_file(), tmp_path)
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["num_attention_heads"] == 4
    assert config["num_key_value_heads"] == 2
    assert config["head_dim"] == 16
    assert config["vocab_size"] == len(TOKENS)
    assert config["rms_norm_eps"] == 1e-5
    assert config["rope_parameters"] == {"rope_theta": 5000.0, "rope_type": "default"}
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 0)


def test_a_missing_size_is_named(tmp_path):
    model = model_file()
    del model.metadata["llama.block_count"]
    with pytest.raises(GgufError, match=r"llama\.block_count"):
        config_of(model, tmp_path)


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_is_tied_when_it_is_not_stored(tmp_path, tied):
    assert config_of(model_file(tied=tied), tmp_path)["tie_word_embeddings"] is tied


def test_without_a_count_of_kv_heads_every_head_has_its_own(tmp_path):
    model = model_file()
    del model.metadata["llama.attention.head_count_kv"]
    assert config_of(model, tmp_path)["num_key_value_heads"] == 4


def test_an_explicit_head_size_wins(tmp_path):
    model = model_file("qwen3")
    model.metadata["qwen3.attention.key_length"] = 32
    assert config_of(model, tmp_path)["head_dim"] == 32


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("attention.value_length", 8, "keys and values differ"),
        ("attention.sliding_window", 4096, "sliding-window"),
        ("attention.head_count_kv", [2, 4], "different numbers of KV heads"),
    ],
)
def test_layouts_that_cannot_be_expressed_are_refused(tmp_path, key, value, message):
    model = model_file()
    model.metadata[f"llama.{key}"] = value
    with pytest.raises(GgufError, match=message):
        config_of(model, tmp_path)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_transformers_reads_the_config(tmp_path, architecture):
    config = config_of(model_file(architecture), tmp_path)
    manifest.write_json(tmp_path / "config.json", config)
    read = AutoConfig.from_pretrained(tmp_path)
    assert read.model_type == architecture
    assert read.head_dim == 16
    assert read.rope_parameters["rope_theta"] == 5000.0


def test_every_end_of_an_answer_is_in_the_generation_config(tmp_path):
    model = model_file()
    model.metadata["tokenizer.ggml.tokens"] = [*TOKENS, "<|eot_id|>", "<|eom_id|>", "<|x|>"]
    model.metadata["tokenizer.ggml.token_type"] += [3, 1, 3]
    model.metadata["tokenizer.ggml.eot_token_id"] = 7
    file = GgufFile(model.write(tmp_path / "m.gguf"))
    eot = len(TOKENS)
    assert generation_config(file)["eos_token_id"] == [CONTROL.index("<|end|>"), 7, eot]
