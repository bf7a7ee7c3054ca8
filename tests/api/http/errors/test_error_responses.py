"""Every failure has the same shape, a status that fits, and a sentence that helps."""

from __future__ import annotations

import json

import pytest

from server.api.http.errors.error_responses import error_json, error_response
from server.errors import ApiError, ErrorKind
from server.link.frames import Pulse
from tests.api.http_client import MAX_BODY_BYTES

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
JSON = {"content-type": "application/json"}


def error_of(response):
    """The error, once its shape has been checked."""
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    body = response.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    return body["error"]


async def refused(client, engine, **fields):
    response = await client.post(COMPLETIONS, json={"prompt": "x", **fields})
    assert response.status_code == 400, response.text
    assert engine.submitted == []
    return error_of(response)


@pytest.mark.parametrize("kind", ErrorKind)
def test_the_table_decides_status_and_type(kind):
    response = error_response(ApiError(kind, "why", param="p", code="c"))
    assert response.status_code == kind.spec.http_status
    assert json.loads(response.body)["error"] == {
        "message": "why",
        "type": kind.spec.openai_type,
        "param": "p",
        "code": "c",
    }
    retry_after = kind.spec.retry_after
    assert response.headers.get("retry-after") == (str(retry_after) if retry_after else None)


def test_a_message_that_quotes_no_unicode_can_be_told():
    assert b"?" in error_json(ApiError(ErrorKind.NOT_FOUND, "no model \ud800"))


@pytest.mark.parametrize(
    ("kind", "status", "retries"),
    [
        ("queue_full", 429, True),
        ("unavailable", 503, True),
        ("deadline_exceeded", 504, False),
        ("internal", 500, False),
        ("invalid_request", 400, False),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_the_engine_refuses_has_a_status_even_for_a_stream(
    client, engine, monkeypatch, kind, status, retries, stream
):
    async def refuse(submission, _):
        engine.emit(finish_reason="error", error=kind, message="why")

    monkeypatch.setattr(engine, "_play", refuse)
    response = await client.post(COMPLETIONS, json={"prompt": "x", "stream": stream})
    assert response.status_code == status
    assert error_of(response)["message"] == "why"
    assert ("retry-after" in response.headers) is retries


async def test_a_request_while_the_model_loads_is_unavailable(client, engine):
    engine.info = None
    engine.pulse = Pulse(state="starting", detail="compiling")
    response = await client.post(COMPLETIONS, json={"prompt": "x"})
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert "compiling" in error_of(response)["message"]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"prompt": 5}, "prompt", "must be a string, a list of strings"),
        ({"prompt": ["a", 1]}, "prompt", "must be a string"),
        ({"prompt": [[1], ["a"]]}, "prompt", "must be a string"),
        ({"prompt": None}, "prompt", "must be a string"),
        ({"prompt": ""}, "prompt", "must not be empty"),
        ({"prompt": []}, "prompt", "must not be empty"),
        ({"prompt": [[]]}, "prompt", "must not be empty"),
        ({"prompt": [999]}, "prompt", "outside the vocabulary"),
        ({"prompt": [-1]}, "prompt", "outside the vocabulary"),
        ({"prompt": [2**70]}, "prompt", "outside the vocabulary"),
        (
            {"prompt": "x " * 300},
            "prompt",
            "This model's maximum context length is 256 tokens. How",
        ),
        ({"prompt": ["x"] * 257}, "prompt", "at most 64 may be asked for at once"),
        ({"max_tokens": 256}, "max_tokens", "at most 255 can be generated"),
        ({"prompt": ["x"] * 20, "max_tokens": 250}, "max_tokens", "for 5020 tokens"),
        ({"max_tokens": "5"}, "max_tokens", "valid integer"),
        ({"max_tokens": 5.5}, "max_tokens", "valid integer"),
        ({"max_tokens": True}, "max_tokens", "valid integer"),
        ({"temperature": "hot"}, "temperature", "valid number"),
        ({"temperature": -1}, "temperature", "at least 0 and at most 2"),
        ({"top_p": -0.1}, "top_p", "at least 0 and at most 1"),
        ({"n": 0}, "n", "at least 1"),
        ({"n": 9}, "n", "at most 8 on this server"),
        ({"n": 65}, "n", "at most 64 may be asked for at once"),
        ({"n": 65}, "n", "and n must be at most 8 on this server"),
        ({"logprobs": True}, "logprobs", "valid integer"),
        ({"logprobs": 21}, "logprobs", "at most 20"),
        ({"stop": 5}, "stop", "a string or a list of strings"),
        ({"stop": ["x"] * 17}, "stop", "at most 16"),
        ({"stop_token_ids": [266]}, "stop_token_ids", "outside the vocabulary"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "'x', which is no token id"),
        ({"logit_bias": {"5": 1, "05": -1}}, "logit_bias", "'05', which is no token id"),
        ({"logit_bias": {"1": 101}}, "logit_bias", "at most 100"),
        ({"logit_bias": {"999": 1}}, "logit_bias", "outside the vocabulary"),
        ({"logit_bias": [1]}, "logit_bias", "logit_bias: should be an object"),
        ({"stream_options": [1]}, "stream_options", "stream_options: should be an object"),
        ({"seed": 2**64}, "seed", "at most 18446744073709551615"),
        ({"stream": "yes"}, "stream", "valid boolean"),
        ({"request_id": "a b"}, "request_id", "visible ASCII"),
        ({"request_id": "x" * 129}, "request_id", "1 to 128"),
    ],
)
async def test_a_field_that_cannot_be_met_is_named(client, engine, fields, param, words):
    error = await refused(client, engine, **fields)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert words in error["message"]


@pytest.mark.parametrize("fields", [{"tools": [{"type": "function"}]}, {"tool_choice": "required"}])
async def test_tools_are_refused_where_there_are_no_messages(client, engine, fields):
    response = await client.post(COMPLETIONS, json={"prompt": "x", **fields})
    assert response.status_code == 400
    assert error_of(response)["param"] == next(iter(fields))
    assert engine.submitted == []


@pytest.mark.parametrize(
    "fields",
    [
        {"best_of": 2},
        {"suffix": "end"},
        {"use_beam_search": True},
        {"bad_words_ids": [[1]]},
        {"truncation_side": "right"},
        {"prompt_embeds": "AAAA"},
    ],
)
@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
async def test_what_would_be_ignored_to_surprise_is_refused(client, engine, path, fields):
    body = {"prompt": "x", "messages": [{"role": "user", "content": "x"}], **fields}
    response = await client.post(path, json=body)
    assert response.status_code == 400
    error = error_of(response)
    assert (error["param"], error["code"]) == (*fields, "unsupported_parameter")
    assert engine.submitted == []


async def test_what_changes_nothing_is_accepted(client, engine):
    response = await client.post(
        CHAT,
        json={
            "messages": [{"role": "user", "content": "x", "name": "me"}],
            "response_format": {"type": "text"},
            "tools": [],
            "tool_choice": "none",
            "best_of": 1,
            "user": "me",
            "metadata": {"a": "b"},
            "store": False,
            "service_tier": "auto",
            "a_field_of_next_year": 1,
        },
    )
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "not valid JSON"),
        (b'{"prompt": "x",}', "not valid JSON"),
        (b'{"prompt": "\xff"}', "not valid UTF-8"),
        (b"[" * 15_000, "nested too deeply"),
        (b'{"prompt": "x", "seed": ' + b"1" * 5000 + b"}", "too long"),
        (b"[]", "must be a JSON object"),
        (b'"x"', "must be a JSON object"),
        (b"", "must be a JSON object"),
        (b'{"prompt": "x", "temperature": NaN}', "temperature must be"),
        (b'{"prompt": "x", "temperature": Infinity}', "temperature must be"),
        (b'{"prompt": "x", "logit_bias": {"1": NaN}}', "a bias in logit_bias must be"),
        (b'{"prompt": "a\\ud800"}', "valid Unicode"),
    ],
)
async def test_a_body_that_cannot_be_read(client, engine, content, words):
    response = await client.post(COMPLETIONS, content=content, headers=JSON)
    assert response.status_code == 400
    assert words in error_of(response)["message"]
    assert engine.submitted == []


async def test_a_body_of_another_type_is_told_which_to_send(client):
    headers = {"content-type": "text/plain"}
    response = await client.post(COMPLETIONS, content=b'{"prompt": "x"}', headers=headers)
    assert response.status_code == 400
    assert "Content-Type: application/json" in error_of(response)["message"]


async def test_a_body_of_no_type_is_taken_as_json(client):
    response = await client.post(COMPLETIONS, content=b'{"prompt": "x"}')
    assert response.status_code == 200


async def test_an_unknown_model(client, engine):
    messages = [{"role": "user", "content": "x"}]
    for path, prompt in (COMPLETIONS, {"prompt": "x"}), (CHAT, {"messages": messages}):
        body = {"model": "gpt-\ud800", **prompt}
        response = await client.post(path, content=json.dumps(body), headers=JSON)
        assert response.status_code == 404
        assert error_of(response)["code"] == "model_not_found"
    assert engine.submitted == []


async def test_routes_and_methods_that_do_not_exist(client):
    response = await client.get("/v9/nothing")
    assert (response.status_code, error_of(response)["type"]) == (404, "not_found_error")
    response = await client.get(COMPLETIONS)
    assert (response.status_code, response.headers["allow"]) == (405, "OPTIONS, POST")
    assert error_of(response)["type"] == "invalid_request_error"


async def test_a_body_that_says_it_is_too_large(client, engine):
    response = await client.post(COMPLETIONS, content=b"x" * (MAX_BODY_BYTES + 1), headers=JSON)
    assert response.status_code == 413
    assert str(MAX_BODY_BYTES) in error_of(response)["message"]
    assert response.headers["connection"] == "close"


async def test_a_body_that_turns_out_too_large_is_not_read_to_its_end(client):
    num_read = 0

    async def endless():
        nonlocal num_read
        while True:
            num_read += 1
            yield b"x" * 1000

    response = await client.post(COMPLETIONS, content=endless(), headers=JSON)
    assert response.status_code == 413
    assert error_of(response)["type"] == "invalid_request_error"
    assert num_read <= MAX_BODY_BYTES // 1000 + 1


async def test_a_fault_of_ours_is_told_without_details(client, service, monkeypatch):
    def fail() -> None:
        raise KeyError("inner detail")

    monkeypatch.setattr(service.models, "loaded", fail)
    response = await client.get("/v1/models")
    assert response.status_code == 500
    assert "inner detail" not in response.text
    assert error_of(response)["type"] == "internal_server_error"


async def test_nothing_is_left_after_refusals(client, engine, lifecycle):
    await refused(client, engine, n=9)
    assert (engine.open, lifecycle.num_in_flight) == ({}, 0)


async def test_a_number_that_is_too_long_is_refused_in_plain_words(client):
    body = '{"prompt": "x", "seed": ' + "1" * 5000 + "}"
    response = await client.post(
        COMPLETIONS, content=body, headers={"content-type": "application/json"}
    )
    assert response.status_code == 400
    assert error_of(response)["message"] == "the body holds a number that is too long to be read"
