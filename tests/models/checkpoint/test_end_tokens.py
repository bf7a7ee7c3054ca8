"""The end tokens that the files of a tokenizer name, wherever published files name them."""

from __future__ import annotations

import json

import pytest

from models.checkpoint.end_tokens import tokenizer_end_ids
from models.checkpoint.json_files import JsonFileError

ADDED = [{"id": 10, "content": "<|endoftext|>"}, {"id": 11, "content": "<|im_end|>"}]
TOKENIZER = {"added_tokens": ADDED, "model": {"vocab": {"</s>": 2, "a": 3}}}
IM_TEMPLATE = "{{ message.content }}<|im_end|>"


def write(folder, name, content):
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_text(text)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "tokenizer.json", TOKENIZER)
    return tmp_path


@pytest.mark.parametrize(
    ("config", "ids"),
    [
        ({"eos_token": "<|im_end|>"}, (11,)),
        ({"eos_token": {"content": "<|im_end|>", "special": True}}, (11,)),
        ({"eos_token": "</s>"}, (2,)),
        ({"eos_token": "<unknown>"}, ()),
        ({"eos_token": None}, ()),
        ({"eos_token": "<x>", "added_tokens_decoder": {"12": {"content": "<x>"}}}, (12,)),
        ({"eos_token": "<|endoftext|>", "chat_template": IM_TEMPLATE}, (10, 11)),
        ({"chat_template": [{"name": "default", "template": IM_TEMPLATE}]}, (11,)),
        ({"chat_template": "<|eot_id|> is no token here"}, ()),
    ],
)
def test_a_tokenizer_config_names_end_tokens(folder, config, ids):
    write(folder, "tokenizer_config.json", config)
    assert tokenizer_end_ids(folder) == ids


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("special_tokens_map.json", {"eos_token": {"content": "<|im_end|>"}}),
        ("chat_template.jinja", IM_TEMPLATE),
        ("chat_template.json", {"chat_template": IM_TEMPLATE}),
    ],
)
def test_another_file_names_an_end_token(folder, name, content):
    write(folder, name, content)
    assert tokenizer_end_ids(folder) == (11,)


def test_gemma_4_ends_its_turns_and_hands_over_to_tools_by_tokens_of_its_template(tmp_path):
    names = ["<turn|>", "<|tool_response>", "<tool_response|>"]
    added = [{"id": 10 + i, "content": name} for i, name in enumerate(names)]
    write(tmp_path, "tokenizer.json", {"added_tokens": added, "model": {"vocab": {}}})
    write(tmp_path, "chat_template.jinja", "".join(names))
    assert tokenizer_end_ids(tmp_path) == (10, 11)


def test_a_folder_without_a_tokenizer_names_none(tmp_path):
    assert tokenizer_end_ids(tmp_path) == ()
    write(tmp_path, "tokenizer_config.json", {"eos_token": "</s>"})
    assert tokenizer_end_ids(tmp_path) == ()


def test_a_vocabulary_of_pieces_with_scores_has_its_added_tokens(tmp_path):
    unigram = {"added_tokens": ADDED, "model": {"vocab": [["a", -1.0]]}}
    write(tmp_path, "tokenizer.json", unigram)
    write(tmp_path, "tokenizer_config.json", {"eos_token": "<|im_end|>"})
    assert tokenizer_end_ids(tmp_path) == (11,)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_file_that_cannot_be_read_is_named(folder, name):
    write(folder, "tokenizer_config.json", {"eos_token": "<|im_end|>"})
    write(folder, name, "{")
    with pytest.raises(JsonFileError, match=name.replace(".", r"\.")):
        tokenizer_end_ids(folder)
