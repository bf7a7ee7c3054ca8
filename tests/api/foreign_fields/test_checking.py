"""Fields that a body does not have: honoured under another name, refused by name, or passed."""

from __future__ import annotations

import pytest

from server.api.foreign_fields.meanings import Alias, Passes
from server.api.foreign_fields.table import FIELDS
from server.api.openai.bodies.request_bodies import ChatBody, CompletionBody
from server.api.requests.refused_fields import Refusal

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
PROMPTS = {
    COMPLETIONS: {"prompt": "hello"},
    CHAT: {"messages": [{"role": "user", "content": "hello"}]},
}
BODIES = {COMPLETIONS: CompletionBody, CHAT: ChatBody}
REFUSED = {name: meaning for name, meaning in FIELDS.items() if isinstance(meaning, Refusal)}
each_endpoint = pytest.mark.parametrize("path", PROMPTS)


async def post(client, path=COMPLETIONS, /, **fields):
    return await client.post(path, json={**PROMPTS[path], **fields})


async def error_of(client, path=COMPLETIONS, /, **fields):
    response = await post(client, path, **fields)
    assert response.status_code == 400, response.text
    return response.json()["error"]


@each_endpoint
def test_the_table_refuses_no_field_that_a_body_has(path):
    assert [
        name for name in FIELDS if all(name in body.model_fields for body in BODIES.values())
    ] == []
    assert [name for name in REFUSED if name in BODIES[path].model_fields] == []


def test_every_alias_names_a_field_of_both_endpoints():
    aliased = {meaning.field for meaning in FIELDS.values() if isinstance(meaning, Alias)}
    assert aliased <= CompletionBody.model_fields.keys() & ChatBody.model_fields.keys()


@each_endpoint
@pytest.mark.parametrize(
    ("alias", "value", "option"),
    [
        ("n_predict", 3, "max_tokens"),
        ("max_new_tokens", 3, "max_tokens"),
        ("num_predict", 3.0, "max_tokens"),
        ("max_completion_tokens", 3, "max_tokens"),
        ("min_new_tokens", 2, "min_tokens"),
        ("repeat_penalty", 1.5, "repetition_penalty"),
        ("random_seed", 7, "seed"),
    ],
)
async def test_another_servers_name_of_an_option_is_honoured(
    client, engine, path, alias, value, option
):
    response = await post(client, path, **{alias: value})
    assert response.status_code == 200, response.text
    assert getattr(engine.submitted[0].params, option) == value


@each_endpoint
async def test_stop_sequences_are_stop_strings(client, path):
    response = await post(client, path, stop_sequences=["wor"])
    assert response.json()["choices"][0]["stop_reason"] == "wor"


@each_endpoint
@pytest.mark.parametrize("name", ["max_tokens", "n_predict", "max_completion_tokens"])
async def test_minus_one_token_is_the_rest_of_the_context(client, engine, path, name):
    assert (await post(client, path, **{name: -1})).status_code == 200
    (asked,) = engine.submitted
    assert asked.params.max_tokens == 256 - len(asked.prompt_token_ids)
    assert (await error_of(client, path, **{name: -2}))["message"].startswith(f"{name} must be")


async def test_two_names_of_one_option_may_agree(client, engine):
    assert (await post(client, max_tokens=3, n_predict=3)).status_code == 200
    assert (await post(client, max_tokens=3, n_predict=None)).status_code == 200
    error = await error_of(client, max_tokens=3, n_predict=4)
    assert (error["param"], error["message"]) == (
        "n_predict",
        "n_predict is another name of max_tokens; send one of the two",
    )


@each_endpoint
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("json_schema", {"type": "object"}, "response_format"),
        ("grammar", 'root ::= "yes"', "structured_outputs with grammar"),
        ("ebnf", 'root ::= "yes"', "structured_outputs with grammar"),
        ("regex", "(yes|no)", "structured_outputs with regex"),
        ("structural_tag", {"structures": []}, "structured_outputs"),
        ("nvext", {"guided_json": {}}, "fields of the body"),
        ("options", {"num_predict": 3}, "fields of the body"),
        ("cache_salt", "tenant-a", "prefix cache"),
        ("stop_regex", "a", "stop"),
        ("typical_p", 0.2, "top_p"),
        ("mirostat", 2, "temperature"),
        ("dry_multiplier", 0.8, "repetition_penalty"),
        ("xtc_probability", 0.5, "min_p"),
        ("length_penalty", True, "beam"),
        ("best_of", 2, "use n"),
        ("do_sample", False, "temperature 0"),
        ("lora_path", "x", "/v1/models"),
        ("truncation_side", "right", "cut the prompt"),
        ("prefill", "Sure", "continue_final_message"),
        ("store", True, "stores no answer"),
        ("maxTokens", 5, "write max_tokens"),
        ("Top-K", 5, "write top_k"),
    ],
)
async def test_what_would_change_the_answer_is_refused_by_name(
    client, engine, path, name, value, words
):
    error = await error_of(client, path, **{name: value})
    assert (error["param"], error["code"]) == (name, "unsupported_parameter")
    assert name in error["message"]
    assert words in error["message"]
    assert engine.submitted == []


@each_endpoint
async def test_every_refused_field_is_refused_and_its_null_and_neutral_values_pass(client, path):
    for name, meaning in REFUSED.items():
        assert (await error_of(client, path, **{name: "unheard of"}))["param"] == name
        for value in (None, *meaning.neutral):
            response = await post(client, path, **{name: value})
            assert response.status_code == 200, (name, value, response.text)


async def test_the_best_of_as_many_as_are_asked_for_is_no_choice(client):
    assert (await post(client, n=2, best_of=2)).status_code == 200
    assert (await error_of(client, n=2, best_of=3))["param"] == "best_of"


async def test_a_field_of_the_other_endpoint_is_refused(client):
    error = await error_of(client, COMPLETIONS, continue_final_message=True)
    assert "this endpoint does not have it" in error["message"]
    assert (await error_of(client, CHAT, echo=True))["param"] == "echo"
    assert (await post(client, CHAT, echo=False)).status_code == 200


async def test_what_would_change_the_tokens_of_a_prompt_is_refused_by_name(client):
    for name in ("chat_template", "documents", "AddSpecialTokens"):
        response = await client.post("/tokenize", json=PROMPTS[CHAT] | {name: "x"})
        assert (response.status_code, response.json()["error"]["param"]) == (400, name)
    response = await client.post("/tokenize", json=PROMPTS[CHAT] | {"n_predict": 5, "user": "x"})
    assert response.status_code == 200


@each_endpoint
async def test_what_changes_nothing_passes(client, path):
    fields = [name for name, meaning in FIELDS.items() if isinstance(meaning, Passes)]
    response = await post(client, path, a_field_of_next_year=1, **dict.fromkeys(fields, "x"))
    assert response.status_code == 200, response.text


@each_endpoint
@pytest.mark.parametrize(
    "fields",
    [
        {"top_p": 0},
        {"temperature": 1},
        {"stop": ""},
        {"stop": [""]},
        {"stop": []},
        {"max_tokens": 16.0},
        {"n": 1.0, "seed": 5.0, "top_k": 4.0},
        {"model": None},
        {"stream": False, "stream_options": {"include_usage": False}},
        {"stream": False, "stream_options": {"include_usage": True}},
        {"max_tokens": 0},
        {"seed": -1},
        {"logit_bias": {}},
    ],
    ids=str,
)
async def test_values_that_openai_takes_are_taken(client, path, fields):
    response = await post(client, path, **fields)
    assert response.status_code == 200, response.text


async def test_no_probability_leaves_only_the_likeliest_token(client, engine):
    await post(client, top_p=0)
    assert 0 < engine.submitted[0].params.top_p <= 1e-6


@pytest.mark.parametrize(
    ("path", "asked", "adds"),
    [
        (COMPLETIONS, None, True),
        (COMPLETIONS, False, False),
        (CHAT, None, False),
        (CHAT, True, True),
    ],
)
async def test_special_tokens_are_added_as_asked(client, service, path, asked, adds, monkeypatch):
    seen = []

    async def encode(text, *, add_special_tokens):
        seen.append(add_special_tokens)
        return [1]

    monkeypatch.setattr(service._prompts, "_encode", encode)
    await post(client, path, add_special_tokens=asked)
    assert seen == [adds]
