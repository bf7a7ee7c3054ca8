"""Every field that one server or endpoint has is honoured or refused by name at every endpoint."""

from __future__ import annotations

import pytest

from server.api.anthropic.request_body import MessagesBody
from server.api.foreign_fields.meanings import Alias, Passes
from server.api.foreign_fields.table import FIELDS, OF_INPUTS
from server.api.open_inference.options import OPTION_NAMES
from server.api.open_inference.signature import INPUTS
from server.api.openai.bodies.embedding_bodies import EmbeddingBody, RerankBody
from server.api.openai.bodies.request_bodies import ChatBody, CompletionBody
from server.api.requests.refused_fields import Refusal
from server.api.responses.request_body import ResponsesBody

MESSAGES = [{"role": "user", "content": "hello"}]
OIP_NAMES = {*OPTION_NAMES, *(spec.name for spec in INPUTS)}
BODIES = {
    "/v1/completions": ({"prompt": "hello"}, CompletionBody.model_fields),
    "/v1/chat/completions": ({"messages": MESSAGES}, ChatBody.model_fields),
    "/v1/responses": ({"input": "hello"}, ResponsesBody.model_fields),
    "/v1/messages": ({"messages": MESSAGES, "max_tokens": 3}, MessagesBody.model_fields),
    "/v2/models/small/generate": ({"text_input": "hello"}, OIP_NAMES),
}
# What says neither how tokens are drawn nor what is read: names, and how an answer is sent.
HARMLESS = {"model", "request_id", "stream", "stream_options", "max_tool_calls"}
REFUSED = {name: meaning for name, meaning in FIELDS.items() if isinstance(meaning, Refusal)}
ALIASES = {name: meaning for name, meaning in FIELDS.items() if isinstance(meaning, Alias)}
ODD = {"an odd": "value"}
each_endpoint = pytest.mark.parametrize("path", BODIES)


async def refusal(client, path, body, engine):
    response = await client.post(path, json=body)
    assert response.status_code == 400, (path, body, response.text)
    assert engine.submitted == []
    error = response.json().get("error")
    return error["message"] if isinstance(error, dict) else error


def foreign_to(path, names):
    is_oip = "/v2/" in path
    own = {*BODIES[path][1], *(["parameters"] if is_oip else [])}
    return [name for name in names if name not in own]


@each_endpoint
async def test_every_field_of_another_server_is_refused_by_name(client, engine, path):
    body, _ = BODIES[path]
    for name in foreign_to(path, REFUSED):
        assert name in await refusal(client, path, body | {name: ODD}, engine)


@each_endpoint
async def test_another_name_of_an_option_is_honoured_or_refused_by_name(client, engine, path):
    body, _ = BODIES[path]
    for name, meaning in ALIASES.items():
        # Whoever honours the alias finds no such value of the option.
        message = await refusal(client, path, body | {name: ODD}, engine)
        assert name in message or meaning.field in message


@each_endpoint
async def test_what_changes_nothing_passes(client, path):
    passing = [name for name, meaning in FIELDS.items() if isinstance(meaning, Passes)]
    fields = dict.fromkeys(foreign_to(path, passing), "x")
    response = await client.post(path, json=BODIES[path][0] | fields)
    assert response.status_code == 200, response.text


@each_endpoint
async def test_a_field_of_another_endpoint_of_this_server_is_refused_by_name(client, engine, path):
    body, _ = BODIES[path]
    others = {name for _, fields in BODIES.values() for name in fields} - HARMLESS
    for name in foreign_to(path, others - {n for n, m in FIELDS.items() if isinstance(m, Passes)}):
        message = await refusal(client, path, body | {name: ODD}, engine)
        meant = FIELDS.get(name)
        assert name in message or (isinstance(meant, Alias) and meant.field in message)


@each_endpoint
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("stopSequences", "stop"),
        ("maxOutputTokens", "max_"),
        ("candidateCount", ""),
        ("responseMimeType", "response_format"),
        ("cacheSalt", "prefix cache"),
        ("num-beams", "no beam search"),
    ],
)
async def test_another_spelling_of_a_foreign_field_is_refused_too(
    client, engine, path, name, words
):
    message = await refusal(client, path, BODIES[path][0] | {name: ODD}, engine)
    assert name in message
    assert words in message


@pytest.mark.parametrize("name", sorted(OPTION_NAMES))
async def test_open_inference_reads_options_beside_the_inputs_and_as_parameters(
    client, engine, name
):
    path, body = "/v2/models/small/generate", {"text_input": "hello"}
    for fields in ({name: ODD}, {"parameters": {name: ODD}}):
        response = await client.post(path, json=body | fields)
        # Whatever the option's type is, this is none, but for forms that are JSON themselves.
        if name not in ("json_object", "json_schema"):
            assert response.status_code == 400, response.text
    response = await client.post(path, json=body | {name: 1, "parameters": {name: 1}})
    assert response.json()["error"] == f"{name} is given twice; send it once"


@pytest.mark.parametrize(
    ("body", "fields", "check"),
    [
        (EmbeddingBody, {"input": "a"}, OF_INPUTS),
        (RerankBody, {"query": "a", "documents": ["b"]}, OF_INPUTS),
    ],
)
def test_a_vector_is_refused_what_would_change_its_text(body, fields, check):
    for name, meaning in check.items():
        if name in body.model_fields or not isinstance(meaning, Refusal):
            continue
        with pytest.raises(Exception, match=name):
            body.model_validate(fields | {name: ODD}).check_supported()
    body.model_validate(fields | {"temperature": 2, "n_predict": 3}).check_supported()
