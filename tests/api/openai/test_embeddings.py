"""POST /v1/embeddings, by what OpenAI's reference and its clients expect."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from tests.api.fakes import hidden_state

PATH = "/v1/embeddings"


def unit(token_ids, size=None):
    vector = hidden_state(token_ids)[:size]
    return vector / np.linalg.norm(vector)


async def embed(client, **fields):
    response = await client.post(PATH, json=fields)
    assert response.status_code == 200, response.text
    return response.json()


async def refusal(client, **fields):
    response = await client.post(PATH, json=fields)
    assert response.status_code == 400, response.text
    return response.json()["error"]


async def test_the_whole_answer(client, ids):
    answer = await embed(client, input="hello", model="small", user="me")
    assert answer.pop("id").startswith("embd-")
    assert answer.pop("created") > 1_700_000_000
    [entry] = answer.pop("data")
    assert np.allclose(entry.pop("embedding"), unit(ids("hello")))
    assert entry == {"object": "embedding", "index": 0}
    assert answer == {
        "object": "list",
        "model": "small",
        "model_version": "1",
        "usage": {"prompt_tokens": 1, "total_tokens": 1},
    }


@pytest.mark.parametrize("given", ["a", ["a", "b"], [5, 6], [[5], [6, 7]]])
async def test_the_four_forms_of_input(client, ids, given):
    entries = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    answer = await embed(client, input=given)
    assert [entry["index"] for entry in answer["data"]] == list(range(len(entries)))
    for entry, each in zip(answer["data"], entries, strict=True):
        token_ids = ids(each) if isinstance(each, str) else each
        assert np.allclose(entry["embedding"], unit(token_ids))


async def test_base64_is_little_endian_float32(client):
    answer = await embed(client, input=[[5, 6, 7]], encoding_format="base64")
    data = base64.b64decode(answer["data"][0]["embedding"])
    numbers = (await embed(client, input=[5, 6, 7]))["data"][0]["embedding"]
    assert np.array_equal(np.frombuffer(data, "<f4"), np.array(numbers, np.float32))


async def test_dimensions_cut_a_vector_to_unit_length(client):
    answer = await embed(client, input=[1, 2, 2], dimensions=3)
    assert np.allclose(answer["data"][0]["embedding"], unit([1, 2, 2], 3))


@pytest.mark.parametrize("given", ["", [], [""], [[]], ["a", ""]])
async def test_empty_inputs_are_refused(client, engine, given):
    error = await refusal(client, input=given)
    assert (error["type"], error["param"]) == ("invalid_request_error", "input")
    assert engine.submitted == []


async def test_a_long_input_is_refused_in_the_words_that_clients_look_for(client):
    error = await refusal(client, input="b" * 300)
    assert "maximum context length is 256 tokens" in error["message"]
    assert error["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": "a"}]},
        {"embed_dtype": "bfloat16"},
        {"endianness": "big"},
        {"use_activation": False},
        {"input_type": "query"},
    ],
)
async def test_fields_that_would_change_the_vector_are_refused_by_name(client, fields):
    error = await refusal(client, input="a", **fields)
    assert error["param"] == next(iter(fields))


async def test_fields_that_change_nothing_pass(client):
    await embed(client, input="a", embed_dtype="float32", use_activation=True, metadata={"a": 1})


async def test_a_wrong_type_or_format_is_named(client):
    assert (await refusal(client, input={"a": 1}))["param"].startswith("input")
    assert (await refusal(client, input="a", encoding_format="hex"))["param"] == "encoding_format"


async def test_whole_numbers_may_have_a_point(client):
    whole, pointed = [await embed(client, input="a", dimensions=d) for d in (4, 4.0)]
    assert pointed["data"] == whole["data"]
