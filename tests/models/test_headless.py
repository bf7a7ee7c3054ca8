"""Models for embeddings as published: without an output head, under the decoder's own names."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from models.checkpoint.checkpoint import Checkpoint
from models.checkpoint.files import LocalFiles
from models.checkpoint.version_folder import open_version
from models.config import ModelConfigError
from models.headless import is_headless, why_no_tokens
from models.huggingface.config_file import parse_config, read_config
from tests.golden import random_models
from tests.models.checkpoints import LLAMA

UNTIED = LLAMA | {"tie_word_embeddings": False}


def write(folder, hf, tensors=None):
    (folder / "config.json").write_text(json.dumps(hf))
    if tensors is not None:
        weight_map = dict.fromkeys(tensors, "model.safetensors")
        index = folder / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.mark.parametrize(
    ("hf", "tensors", "expected"),
    [
        (UNTIED, None, False),
        (UNTIED, ["model.norm.weight", "lm_head.weight"], False),
        (UNTIED, ["norm.weight"], True),
        (LLAMA | {"tie_word_embeddings": True}, ["norm.weight"], False),
        (UNTIED | {"architectures": ["LlamaModel"]}, None, True),
    ],
)
def test_a_head_is_missing_by_the_architectures_name_or_by_the_index(
    tmp_path, hf, tensors, expected
):
    folder = write(tmp_path, hf, tensors)
    assert is_headless(folder) is expected
    assert read_config(folder).tie_embeddings is (expected or bool(hf["tie_word_embeddings"]))


@pytest.mark.parametrize(
    ("hf", "stored", "expected"),
    [
        (UNTIED, ["norm.weight", "lm_head.weight"], False),
        (UNTIED, ["norm.weight"], True),
        (LLAMA, ["norm.weight"], False),
        (UNTIED, [], False),
    ],
)
def test_without_an_index_the_headers_say_whether_there_is_a_head(tmp_path, hf, stored, expected):
    """Also in a copy, which has no weights."""
    folder = write(tmp_path, hf)
    if stored:
        ones = {name: np.ones((1, 1), np.float32) for name in stored}
        save_file(ones, folder / "model.safetensors")
    open_version(LocalFiles(folder), folder / "copy")
    for each in (folder, folder / "copy"):
        assert is_headless(each) is expected
        assert read_config(each).tie_embeddings is (expected or hf is LLAMA)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff" * 16, (1 << 40).to_bytes(8, "little")])
def test_files_that_cannot_be_read_say_nothing(tmp_path, content):
    folder = write(tmp_path, UNTIED)
    (folder / "model.safetensors").write_bytes(content)
    open_version(LocalFiles(folder), folder / "copy")
    assert not is_headless(folder)
    assert not is_headless(folder / "copy")


MISTRAL3 = {
    "architectures": ["Mistral3ForConditionalGeneration"],
    "text_config": {
        key: LLAMA[key] for key in LLAMA if key not in ("architectures", "tie_word_embeddings")
    },
}


@pytest.mark.parametrize(
    ("said", "stored", "tied"),
    [
        ({}, ["language_model.model.norm.weight"], True),
        ({}, ["language_model.lm_head.weight"], False),
        ({"tie_word_embeddings": True}, ["language_model.model.norm.weight"], True),
    ],
)
def test_a_vision_model_whose_files_say_nothing_of_its_head_is_as_they_are(
    tmp_path, said, stored, tied
):
    folder = write(tmp_path, MISTRAL3 | said, stored)
    assert not is_headless(folder)
    assert read_config(folder).tie_embeddings is tied


@pytest.mark.parametrize("name", ["gemma2", "gemma3-vlm", "gemma4", "gemma4-unified"])
def test_a_gemma_in_several_files_has_its_embedding_for_a_head(tmp_path, name):
    tensors = list(random_models.weights(name))
    folder = write(tmp_path, random_models.CONFIGS[name], tensors)
    assert not is_headless(folder)
    assert why_no_tokens(folder) == ""


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, ""),
        ({"use_bidirectional_attention": "vision"}, ""),
        ({"use_bidirectional_attention": "all"}, "see later tokens"),
        ({"architectures": ["LlamaModel"]}, "no output head"),
        ({"use_bidirectional_attention": True}, "see later tokens"),
    ],
)
def test_a_model_that_generates_nothing_says_why(tmp_path, fields, reason):
    found = why_no_tokens(write(tmp_path, LLAMA | fields))
    assert reason in found
    assert bool(found) == bool(reason)


@pytest.mark.parametrize("name", ["Llama", "Mistral", "Qwen2", "Qwen3"])
def test_a_decoder_without_a_head_is_the_decoder(name):
    found = parse_config(LLAMA | {"architectures": [f"{name}Model"]})
    assert found == parse_config(LLAMA | {"architectures": [f"{name}ForCausalLM"]})


def test_tensors_are_found_without_their_prefix(tmp_path):
    names = ["embed_tokens.weight", "layers.0.mlp.up_proj.weight", "norm.weight"]
    save_file({name: np.zeros((1, 1), np.float32) for name in names}, tmp_path / "a.safetensors")
    checkpoint = Checkpoint(tmp_path)
    assert all(f"model.{name}" in checkpoint for name in names)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"architectures": ["Gemma2Model"], "use_bidirectional_attention": True}, "use_bidir"),
        (
            {
                "architectures": ["Gemma3ForConditionalGeneration"],
                "text_config": LLAMA | {"use_bidirectional_attention": True},
            },
            "use_bidir",
        ),
        ({"architectures": ["Qwen2ForCausalLM"], "is_causal": False}, "is_causal false"),
        ({"architectures": ["BertModel"]}, "BertModel"),
    ],
)
def test_attention_to_later_tokens_is_refused_by_name(fields, named):
    with pytest.raises(ModelConfigError, match=named):
        parse_config(LLAMA | fields)
