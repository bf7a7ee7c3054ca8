"""Large JSON bodies: read as small ones are, and refused where validation would take long."""

from __future__ import annotations

import asyncio
import json
import threading

import httpx
import pytest

from server.api.http.json_bodies import json_body
from server.api.http.json_bodies.json_body import MAX_INLINE_BYTES
from server.api.http.json_bodies.json_decoding import MAX_VALUES
from server.api.http.middleware import body_limit
from tests.api.http_client import app_of

PADDING = "x" * MAX_INLINE_BYTES


@pytest.fixture
async def client(service, health):
    transport = httpx.ASGITransport(app_of(service, health))
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        yield client


async def test_a_large_body_is_decoded_in_a_thread(client, monkeypatch):
    threads = []

    def decode_here(body: bytes) -> object:
        threads.append(threading.get_ident())
        return json.loads(body)

    monkeypatch.setattr(json_body, "decode", decode_here)
    for padding, num_threads in (("", 0), (PADDING, 1)):
        body = {"prompt": "x", "max_tokens": 1, "user": padding}
        response = await client.post("/v1/completions", json=body)
        assert response.status_code == 200, response.text
        assert len(threads) == num_threads
    assert threads != [threading.get_ident()]


@pytest.mark.parametrize(
    "fields",
    [
        {"stop": ["a"] * (MAX_VALUES + 1)},
        {"prompt": [[1]] * (MAX_VALUES + 1)},
        {"logit_bias": {str(number): 1 for number in range(MAX_VALUES + 1)}},
        {"unknown": [[]] * (MAX_VALUES + 1)},
        {"unknown": [{"a": [{}] * MAX_VALUES}]},
    ],
)
async def test_a_body_of_very_many_values_is_refused(client, engine, fields):
    response = await client.post("/v1/completions", json={"prompt": "x", **fields})
    assert response.status_code == 400
    assert "more than 10000 objects, lists and texts" in response.json()["error"]["message"]
    assert engine.submitted == []


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize"])
async def test_very_many_messages_are_refused(client, path):
    messages = [{"role": "user", "content": "x"}] * MAX_VALUES
    response = await client.post(path, json={"messages": messages})
    assert response.status_code == 400
    assert "send several requests" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (b"", "not valid JSON"),
        (b'",}', "not valid JSON"),
        (b'\xff"}', "not valid UTF-8"),
        (b'", "a": ' + b"[" * 5_000, "nested too deeply"),
    ],
)
async def test_a_large_body_that_is_no_json_is_refused_as_a_small_one(client, end, words):
    response = await client.post(
        "/v1/completions",
        content=b'{"prompt": "' + PADDING.encode() + end,
        headers={"content-type": "application/json"},
    )
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]


async def test_bodies_that_are_held_until_they_are_answered_are_bounded(
    service, health, monkeypatch
):
    """A body stops counting when its answer begins, so the same can come again and again."""
    monkeypatch.setattr(body_limit, "MAX_BODIES_HELD", 1)
    transport = httpx.ASGITransport(app_of(service, health))
    body = {"prompt": "x" * 200, "max_tokens": 1, "user": "x" * (5 << 20)}
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        for _ in range(3):
            assert (await client.post("/v1/completions", json=body)).status_code == 200
        both = [client.post("/v1/completions", json=body) for _ in range(2)]
        answers = await asyncio.gather(*both)
    assert sorted(answer.status_code for answer in answers) == [200, 503]
    [refused] = [answer for answer in answers if answer.status_code == 503]
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["type"] == "service_unavailable_error"
