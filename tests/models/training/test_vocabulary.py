from __future__ import annotations

import json

import pytest

from models.training.vocabulary import BOS_ID, SPECIAL_TOKENS, train_tokenizer, write_tokenizer
from tests.golden import texts

SIZE = 400


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(texts.PYTHON * 4, SIZE)


def test_a_vocabulary_has_the_size_asked_for_and_the_special_tokens_first(tokenizer):
    assert tokenizer.get_vocab_size() == SIZE
    assert [tokenizer.id_to_token(i) for i in range(3)] == list(SPECIAL_TOKENS)


def test_a_text_begins_with_bos_and_an_empty_one_is_nothing_else(tokenizer):
    assert tokenizer.encode("import os").ids[0] == BOS_ID
    assert tokenizer.encode("").ids == [BOS_ID]


@pytest.mark.parametrize("text", texts.TOKENIZER)
def test_any_text_survives(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_punctuation_takes_the_indentation_of_the_next_line_along(tokenizer):
    ids = tokenizer.encode("def f():\n    return", add_special_tokens=False).ids
    words = [tokenizer.decode([token_id]) for token_id in ids]
    assert any(word.endswith(":\n    ") for word in words), words


def test_training_again_gives_the_same_tokenizer(tokenizer):
    assert train_tokenizer(texts.PYTHON * 4, SIZE).to_str() == tokenizer.to_str()


def test_the_written_files_name_the_special_tokens_and_a_chat_template(tokenizer, tmp_path):
    write_tokenizer(tokenizer, tmp_path, max_length=64)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert (config["bos_token"], config["eos_token"], config["pad_token"]) == SPECIAL_TOKENS
    assert config["model_max_length"] == 64
    assert "messages" in config["chat_template"]
    assert (tmp_path / "tokenizer.json").exists()
