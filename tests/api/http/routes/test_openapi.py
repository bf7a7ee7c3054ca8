"""The document itself: complete, self-contained, and in step with the types that are encoded."""

from __future__ import annotations

import asyncio
import json
import re

import httpx
import msgspec
import pytest

from server.api.openai.bodies.response_bodies import ChatCompletion, ChatCompletionChunk, Completion
from server.api.requests.validation import RANGES
from server.api.servers.http_server import create_http_app
from server.config.server_config import ServerConfig
from tests.api.http.asgi import events
from tests.api.turns import watched_turns


@pytest.fixture
async def document(client):
    return (await client.get("/openapi.json")).json()


@pytest.fixture
def schemas(document):
    return document["components"]["schemas"]


async def test_every_reference_leads_somewhere(document, schemas):
    names = re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document))
    assert set(names) <= set(schemas)
    assert "HTTPValidationError" not in schemas


async def test_every_route_is_described(document):
    assert set(document["paths"]) == {
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/embeddings",
        "/rerank",
        "/v1/rerank",
        "/v2/rerank",
        "/score",
        "/v1/score",
        "/v1/responses",
        "/v1/responses/input_tokens",
        "/v1/responses/{response_id}",
        "/v1/responses/{response_id}/cancel",
        "/v1/responses/{response_id}/input_items",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/models",
        "/v1/models/{model}",
        "/tokenize",
        "/detokenize",
        "/version",
        "/livez",
        "/readyz",
        "/health",
        "/metrics",
    }
    for methods in document["paths"].values():
        for operation in methods.values():
            assert operation["summary"]
            assert "422" not in operation["responses"]


@pytest.mark.parametrize("name", sorted(set(RANGES) - {"logprobs", "max_tokens"}))
@pytest.mark.parametrize("body", ["CompletionBody", "ChatBody"])
async def test_bounds_are_the_ones_that_hold(schemas, body, name):
    shown = schemas[body]["properties"][name]
    for keyword, bound in RANGES[name].schema().items():
        assert shown[keyword] == float(bound)


async def test_bounds_of_max_tokens_include_the_rest_of_the_context(schemas):
    for body in ("CompletionBody", "ChatBody"):
        shown = schemas[body]["properties"]["max_tokens"]
        assert (shown["minimum"], shown["maximum"]) == (-1, RANGES["max_tokens"].maximum)


async def test_bounds_of_logprobs(schemas):
    assert schemas["CompletionBody"]["properties"]["logprobs"]["maximum"] == 20
    assert schemas["ChatBody"]["properties"]["top_logprobs"]["maximum"] == 20


async def test_unknown_fields_are_allowed(schemas):
    assert schemas["CompletionBody"]["additionalProperties"] is True


@pytest.mark.parametrize(
    ("path", "whole", "chunk"),
    [
        ("/v1/completions", Completion, Completion),
        ("/v1/chat/completions", ChatCompletion, ChatCompletionChunk),
    ],
)
async def test_answers_and_chunks_decode_as_what_they_are_described_as(client, path, whole, chunk):
    body = {
        **({"messages": [{"role": "user", "content": "x"}]} if "chat" in path else {"prompt": "x"}),
        "logprobs": True if "chat" in path else 1,
        "return_token_ids": True,
        "prompt_logprobs": 1,
    }
    response = await client.post(path, json=body)
    msgspec.json.decode(response.content, type=whole)
    include_usage = {"stream": True, "stream_options": {"include_usage": True}}
    response = await client.post(path, json=body | include_usage)
    *chunks, _ = events(response.content)
    assert len(chunks) > 3
    for one in chunks:
        msgspec.convert(one, chunk)


async def test_making_the_document_leaves_the_event_loop_free(service, health):
    """It is made in a thread, once, also for many who ask at once."""
    app = create_http_app(service, health, ServerConfig())
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        async with watched_turns() as turns:
            answers = await asyncio.gather(*(client.get("/openapi.json") for _ in range(5)))
        assert turns.longest < 0.05
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
