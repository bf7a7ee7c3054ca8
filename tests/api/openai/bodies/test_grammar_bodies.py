"""The form of a text under all its names: read as one grammar, or refused by name."""

from __future__ import annotations

import pytest

from server.api.openai.bodies.grammar_bodies import read_grammar
from server.errors import ApiError
from server.link.sampling import Grammar

SCHEMA = {"type": "object", "properties": {"b": {}, "a": {}}}
TEXT = '{"type":"object","properties":{"b":{},"a":{}}}'
AS_OPENAI = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
TAG = {"type": "structural_tag", "structures": [], "triggers": []}

READ = {
    "nothing": ({}, None, ""),
    "null": ({"response_format": None, "guided_json": None}, None, ""),
    "text": ({"response_format": {"type": "text"}}, None, ""),
    "object": (
        {"response_format": {"type": "json_object"}},
        Grammar("json_object", ""),
        "response_format",
    ),
    "schema": (
        {"response_format": AS_OPENAI},
        Grammar("json_schema", TEXT),
        "response_format.json_schema.schema",
    ),
    "object with schema": (
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        Grammar("json_schema", TEXT),
        "response_format.schema",
    ),
    "text of a schema": (
        {"structured_outputs": {"json": TEXT}},
        Grammar("json_schema", TEXT),
        "structured_outputs.json",
    ),
    "choice": (
        {"structured_outputs": {"choice": ["a", "é"], "regex": None, "json_object": False}},
        Grammar("choice", '["a","é"]'),
        "structured_outputs.choice",
    ),
    "older name": ({"guided_regex": "a+"}, Grammar("regex", "a+"), "guided_regex"),
    "grammar": ({"guided_grammar": "x"}, Grammar("lark", "x"), "guided_grammar"),
    "text beside a limit": (
        {"response_format": {"type": "text"}, "guided_choice": ["a"]},
        Grammar("choice", '["a"]'),
        "guided_choice",
    ),
}


@pytest.mark.parametrize(("fields", "grammar", "asked_as"), READ.values(), ids=READ)
def test_every_name_is_read(fields, grammar, asked_as):
    assert read_grammar(fields) == (grammar, asked_as)


def test_a_structural_tag_is_taken_in_both_places():
    grammar, _ = read_grammar({"response_format": TAG})
    assert grammar.kind == "structural_tag"
    assert read_grammar({"structured_outputs": {"structural_tag": TAG}})[0] == grammar


def schema_with(**fields):
    return {"type": "json_schema", "json_schema": {"schema": {}, **fields}}


REFUSED = {
    "type": (
        {"response_format": {"type": "xml"}},
        "response_format",
        "response_format.type is 'xml'; it must be one of text, json_object, json_schema",
    ),
    "no type": ({"response_format": {}}, "response_format", "type is missing"),
    "text with a schema": (
        {"response_format": {"type": "text", "json_schema": {"schema": SCHEMA}}},
        "response_format.json_schema",
        "response_format.json_schema is not supported next to the type text",
    ),
    "no schema": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
        "response_format.json_schema.schema",
        "must be an object",
    ),
    "not nested": (
        {"response_format": {"type": "json_schema", "schema": {}}},
        "response_format.schema",
        "write it as response_format.json_schema.schema",
    ),
    "strict as text": (
        {"response_format": schema_with(strict="true")},
        "response_format.json_schema.strict",
        "strict must be true or false",
    ),
    "name of no text": (
        {"response_format": schema_with(name=5)},
        "response_format.json_schema.name",
        "name must be a string",
    ),
    "name outside": (
        {"response_format": {**schema_with(), "name": "x"}},
        "response_format.name",
        "write it as response_format.json_schema.name",
    ),
    "unknown": (
        {"structured_outputs": {"xml": "x"}},
        "structured_outputs.xml",
        "json, json_object, regex, choice, grammar, structural_tag",
    ),
    "option": (
        {"structured_outputs": {"json": {}, "disable_any_whitespace": True}},
        "structured_outputs.disable_any_whitespace",
        "not supported",
    ),
    "wrong type": ({"structured_outputs": {"regex": 1}}, "structured_outputs.regex", "a string"),
    "two in one": (
        {"structured_outputs": {"json": {}, "regex": "a"}},
        "structured_outputs.regex",
        "structured_outputs.json and structured_outputs.regex both limit the text",
    ),
    "two fields": (
        {"response_format": {"type": "json_object"}, "guided_json": {}},
        "guided_json",
        "response_format and guided_json both limit the text",
    ),
    "not Unicode": ({"guided_choice": ["\ud800"]}, "guided_choice", "cannot be read"),
}


@pytest.mark.parametrize(("fields", "param", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_met_is_named(fields, param, words):
    with pytest.raises(ApiError) as refused:
        read_grammar(fields)
    assert (refused.value.kind.value, refused.value.param) == ("invalid_request", param)
    assert words in refused.value.message
