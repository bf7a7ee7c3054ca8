"""Which pooling a checkpoint's files ask for, and which of them cannot be followed."""

from __future__ import annotations

import json

import pytest

from server.api.embeddings.embedding_recipe import read_recipe

TRANSFORMER = {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"}
POOLING = {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
NORMALIZE = {"idx": 2, "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}
DENSE = {"idx": 2, "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
CNN = {"idx": 2, "path": "2_CNN", "type": "sentence_transformers.models.CNN"}
OLD = dict.fromkeys(("cls_token", "mean_tokens", "max_tokens", "lasttoken"), False)


@pytest.fixture
def folder(tmp_path):
    """A function that writes a checkpoint's files; a name may lie in a folder."""

    def write(**files):
        for name, content in ({"config": {"hidden_size": 8}} | files).items():
            path = tmp_path / f"{name.replace('__', '/')}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(content))
        return tmp_path

    return write


def modes(*names):
    return {f"pooling_mode_{name}": name in names for name in OLD} | {"word_embedding_dimension": 8}


def pooling(path):
    return {"modules": [TRANSFORMER, POOLING, NORMALIZE], "1_Pooling__config": path}


def test_a_model_for_tokens_gives_its_last_hidden_state_normalized(folder):
    recipe = read_recipe(folder(), "auto")
    assert (recipe.pooling, recipe.normalizes, recipe.size, recipe.refusal) == ("last", True, 8, "")


@pytest.mark.parametrize(
    ("mode", "expected"), [("lasttoken", "last"), ("mean_tokens", "mean"), ("cls_token", "cls")]
)
def test_the_pooling_modules_mode_is_taken(folder, mode, expected):
    assert read_recipe(folder(**pooling(modes(mode))), "auto").pooling == expected


def test_newer_files_name_the_mode(folder):
    named = {"embedding_dimension": 8, "pooling_mode": "mean", "include_prompt": True}
    assert read_recipe(folder(**pooling(named)), "auto").pooling == "mean"


def test_without_a_normalize_module_vectors_are_left_as_they_are(folder):
    files = pooling(modes("mean_tokens")) | {"modules": [TRANSFORMER, POOLING]}
    assert not read_recipe(folder(**files), "auto").normalizes


@pytest.mark.parametrize(
    ("files", "named"),
    [
        (pooling(modes("max_tokens")), "pooling_mode_max_tokens"),
        (pooling(modes("cls_token", "mean_tokens")), "cls_token and pooling_mode_mean_tokens"),
        (pooling(modes()), "pooling none"),
        (pooling(modes("mean_tokens") | {"include_prompt": False}), "include_prompt"),
        ({"modules": [TRANSFORMER, POOLING, CNN]}, "module CNN"),
        ({"modules": [TRANSFORMER, NORMALIZE, POOLING]}, "order Transformer, Normalize, Pooling"),
        ({"modules": [TRANSFORMER, POOLING, DENSE]}, "2_Dense cannot be read"),
        ({"modules": [TRANSFORMER, POOLING]}, "1_Pooling/config.json cannot be read"),
        ({"modules": {}}, "no list of modules"),
        (
            pooling(modes("mean_tokens")) | {"sentence_bert_config": {"do_lower_case": True}},
            "do_lower_case",
        ),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(folder, files, named):
    assert named in read_recipe(folder(**files), "auto").refusal


def test_the_setting_wins_over_the_files(folder):
    recipe = read_recipe(folder(**pooling(modes("max_tokens"))), "cls")
    assert (recipe.pooling, recipe.refusal) == ("cls", "")


def test_none_makes_no_embeddings(folder):
    assert "--pooling none" in read_recipe(folder(), "none").refusal


def test_prompts_and_the_longest_text_are_read(folder):
    recipe = read_recipe(
        folder(
            **pooling(modes("lasttoken")),
            config_sentence_transformers={
                "prompts": {"query": "Query:", "document": ""},
                "default_prompt_name": "query",
            },
            sentence_bert_config={"max_seq_length": 512},
        ),
        "auto",
    )
    assert recipe.max_tokens == 512
    assert [recipe.prompt(*names) for names in ((), ("passage", "document"))] == ["Query:", ""]


def test_the_size_of_a_multimodal_model_is_its_text_models(folder):
    assert read_recipe(folder(config={"text_config": {"hidden_size": 16}}), "auto").size == 16
