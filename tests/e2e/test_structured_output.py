"""Answers of a whole server under JSON schemas, over both transports and resumed."""

from __future__ import annotations

import asyncio
import json

import jsonschema
import pytest
from antipode import AsyncClient

from tests.e2e.clients import client
from tests.e2e.conftest import starter
from tests.e2e.servers import PROJECT, REAL

TREE = {
    "type": "object",
    "properties": {
        "value": {"type": "integer", "minimum": 0, "maximum": 9},
        "next": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]},
    },
    "required": ["value", "next"],
    "additionalProperties": False,
}
FIELDS = {
    f"field_{i}": {"enum": [[], "a", None, i]} if i % 2 else {"type": "boolean"} for i in range(12)
}
SCHEMAS = [
    {"enum": ["red", "green", 3]},
    {"type": "string", "format": "date"},
    {"type": "string", "pattern": "^[a-c]{3,9}$"},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    {"anyOf": [{"type": "null"}, {"const": {"a": [1]}}]},
    {"$ref": "#/$defs/tree", "$defs": {"tree": TREE}},
    {
        "type": "object",
        "properties": FIELDS,
        "required": list(FIELDS),
        "additionalProperties": False,
    },
    {"type": "integer", "multipleOf": 7, "minimum": 1, "maximum": 500},
]
COMPACT = {"x-guidance": {"whitespace_flexible": False}}


@pytest.fixture(scope="module")
def server(tmp_path_factory, compile_cache):
    folder = tmp_path_factory.mktemp("structured")
    with starter(folder, PROJECT / "models/tiny/1", compile_cache) as start:
        yield start(REAL, "--dtype=float32").wait_ready()


def ask(schema, seed, **fields):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema | COMPACT}}
    return {
        "prompt": "def f(",
        "max_tokens": 400,
        "seed": seed,
        "temperature": seed % 2,
        "response_format": form,
        "return_token_ids": True,
        **fields,
    }


async def complete(http, body):
    response = await http.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]


async def test_every_answer_is_what_its_schema_describes(server):
    free = {"prompt": "def f(", "max_tokens": 60, "temperature": 0, "return_token_ids": True}
    async with client(server) as http:
        alone = await complete(http, free)
        bodies = [ask(schema, seed) for seed, schema in enumerate(SCHEMAS * 2)]
        *answers, beside = await asyncio.gather(*(complete(http, body) for body in [*bodies, free]))
    for answer, schema in zip(answers, SCHEMAS * 2, strict=True):
        assert answer["finish_reason"] == "stop"
        jsonschema.validate(json.loads(answer["text"]), schema)
    assert beside["token_ids"] == alone["token_ids"]


async def test_a_resumed_answer_goes_on_in_its_schema(server):
    body = ask(SCHEMAS[6], 4, stream=True)
    async with client(server) as http:
        whole = await complete(http, body | {"stream": False})
        cut = whole["token_ids"][: len(whole["token_ids"]) // 2]
        version = (await http.get("/v1/models")).json()["data"][0]["model_version"]
        resume = {"model_version": version, "token_ids": [cut]}
        response = await http.post("/v1/completions", json=body | {"resume": resume})
        wrong = {"model_version": version, "token_ids": [[*cut, *cut]]}
        refused = await http.post("/v1/completions", json=body | {"resume": wrong})
    events = [line[6:] for line in response.text.splitlines() if line.startswith("data: {")]
    rest = [token for event in events for token in json.loads(event)["choices"][0]["token_ids"]]
    assert cut + rest == whole["token_ids"]
    assert refused.status_code == 400
    assert "the grammar cannot go on after" in refused.json()["error"]["message"]


async def test_the_client_takes_a_form_over_both_transports(server):
    texts = set()
    for address in (f"grpc://{server.grpc}", server.http):
        async with AsyncClient(address) as api:
            stream = api.generate(
                "def f(", temperature=0.0, max_tokens=20, grammar={"choice": ["yes", "no"]}
            )
            [choice] = await stream.collect()
            texts.add((choice.text, choice.finish_reason))
    assert len(texts) == 1
    assert texts <= {("yes", "stop"), ("no", "stop")}


async def test_a_stop_string_ends_a_form_in_the_middle(server):
    form = {"structured_outputs": {"regex": "abcdefghij(klm)+"}, "max_tokens": 60}
    async with client(server) as http:
        body = {"prompt": "x", "temperature": 0, "stop": ["zz", "ef"], **form}
        ended = await complete(http, body)
        kept = await complete(http, body | {"include_stop_str_in_output": True})
    assert (ended["text"], ended["finish_reason"], ended["stop_reason"]) == ("abcd", "stop", "ef")
    assert kept["text"] == "abcdef"


async def test_the_client_has_a_tool_called_over_both_transports(server):
    function = {"name": "weather", "parameters": WEATHER | COMPACT}
    options = {
        "tools": [{"type": "function", "function": function}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "max_tokens": 200,
    }
    messages = [{"role": "user", "content": "x"}]
    said = []
    for address in (f"grpc://{server.grpc}", server.http):
        async with AsyncClient(address, trust_env=False) as api:
            [choice] = await api.generate(messages, temperature=0.0, **options).collect()
        said.append([(call.name, json.loads(call.arguments)) for call in choice.calls])
        assert choice.finish_reason == "tool_calls"
    assert said[0] == said[1]
    assert {name for name, _ in said[0]} == {"weather"}
    for _, arguments in said[0]:
        jsonschema.validate(arguments, WEATHER)


async def test_a_form_that_cannot_be_compiled_is_a_bad_request(server):
    async with client(server) as http:
        response = await http.post("/v1/completions", json=ask({"type": "strin"}, 0))
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "response_format.json_schema.schema"
    assert "strin" in error["message"]


WEATHER = {
    "type": "object",
    "properties": {"unit": {"enum": ["C", "F"]}, "days": {"type": "integer", "maximum": 9}},
    "required": ["unit", "days"],
    "additionalProperties": False,
}


async def test_a_model_that_knows_no_tools_calls_one_where_it_must(server):
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}
    body = {
        "messages": [{"role": "user", "content": "def f("}],
        "tools": [tool],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "max_tokens": 200,
        "seed": 1,
    }
    async with client(server) as http:
        whole = (await http.post("/v1/chat/completions", json=body)).json()["choices"][0]
        response = await http.post("/v1/chat/completions", json=body | {"stream": True})
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    deltas = [json.loads(line)["choices"][0]["delta"] for line in lines if line != "[DONE]"]
    pieces = [call["function"] for delta in deltas for call in delta.get("tool_calls", [])]
    (call,) = whole["message"]["tool_calls"]
    assert whole["finish_reason"] == "tool_calls"
    assert (call["function"]["name"], pieces[0]["name"]) == ("get_weather", "get_weather")
    jsonschema.validate(json.loads(call["function"]["arguments"]), WEATHER)
    assert "".join(piece["arguments"] for piece in pieces) == call["function"]["arguments"]
