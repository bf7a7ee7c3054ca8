"""The options of sampling in generation_config.json: those that count, and those that are wrong."""

from __future__ import annotations

import json

import pytest

from models.checkpoint.json_files import JsonFileError
from models.checkpoint.sampling_defaults import sampling_defaults
from models.checkpoint.tokenizer_files import tokenizer_sums


def write(folder, **fields):
    (folder / "generation_config.json").write_text(json.dumps(fields))
    return folder


def test_five_options_count_and_others_do_not(tmp_path):
    assert sampling_defaults(tmp_path) == {}
    found = sampling_defaults(
        write(tmp_path, temperature=0.6, top_p=1, top_k=20.0, min_p=None, do_sample=False, x="y")
    )
    assert found == {"temperature": 0.6, "top_p": 1.0, "top_k": 20}
    assert type(found["top_k"]) is int


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"temperature": "0.6"}, "temperature must be a number, not '0.6'"),
        ({"top_p": True}, "top_p must be a number, not True"),
        ({"top_k": 1.5}, "top_k must be an integer, not 1.5"),
        ({"repetition_penalty": []}, "repetition_penalty must be a number"),
    ],
)
def test_what_is_no_number_is_refused_by_name(tmp_path, fields, words):
    with pytest.raises(JsonFileError, match=words):
        sampling_defaults(write(tmp_path, **fields))


def test_a_version_with_other_options_has_another_sum(tmp_path):
    def sums(**fields):
        return tokenizer_sums(write(tmp_path, **fields))

    assert sums(eos_token_id=1) == sums(eos_token_id=2) == {}
    assert sums(temperature=0.6) == sums(temperature=0.6, eos_token_id=2)
    assert sums(temperature=0.6) != sums(temperature=0.7)
