"""Schemas as rules of Gemma 4's form: what they allow, with quotes that are tokens or are not."""

from __future__ import annotations

import json
import random

import jsonschema
import pytest

from server.api.chat.tool_grammar import AnswerForm, tool_at, tool_grammar
from server.api.chat.tools import Tool, ToolChoice
from server.api.tool_calls.events import ArgumentsDelta, CallStarted
from server.api.tool_calls.families import MARKERS, call_reader
from server.errors import ApiError
from server.grammar.compiler import Compiler
from server.link.frames import Vocabulary
from tests.api.chat.test_tool_grammar import EOS, allows, compiler, in_gemma4
from tests.api.templates import TEMPLATES, tokenizer_with

TOKENIZER = tokenizer_with(TEMPLATES["gemma4"])
SPECIAL = {marker: TOKENIZER.special_id(marker) for marker in MARKERS["gemma4"]}


def grammar_of(schema: dict, *, strict: bool = False, special: dict = SPECIAL):
    tool = Tool(name="f", parameters=schema, strict=strict)
    form = AnswerForm(family="gemma4", special=special)
    return tool_grammar([tool], ToolChoice("named", "f"), parallel=False, form=form)


def matcher_of(schema: dict, **options):
    return compiler().compile(grammar_of(schema, **options))


def call(arguments: object) -> str:
    return f"<|tool_call>call:f{in_gemma4(arguments)}<tool_call|>"


def of_object(**properties: object) -> dict:
    return {"type": "object", "properties": properties, "required": ["a"]}


STRING = {"type": "string"}
TREE = {
    "type": "object",
    "properties": {"kids": {"type": "array", "items": {"$ref": "#"}}, "name": STRING},
    "required": ["name"],
}
SCHEMAS = [
    (of_object(a=STRING), [{"a": "x{,}:[]\n"}, {"a": ""}], [{"a": 1}, {}, {"a": "x", "b": 1}]),
    (of_object(b=STRING, a={"type": "integer"}), [{"a": 1}, {"a": 1, "b": "x"}], [{"b": "x"}]),
    (of_object(a=STRING, B=STRING, c=STRING), [{"B": "y", "a": "x"}], [{"B": "y"}]),
    (of_object(a={"enum": ["x y", 3, None, True, ["z", {"k": 1}]]}),
     [{"a": "x y"}, {"a": 3}, {"a": None}, {"a": True}, {"a": ["z", {"k": 1}]}],
     [{"a": "x"}, {"a": 4}, {"a": False}]),
    (of_object(a={"const": "x"}), [{"a": "x"}], [{"a": "xx"}]),
    (of_object(a={"type": ["string", "null"]}), [{"a": "x"}, {"a": None}], [{"a": 1}]),
    (of_object(a={"anyOf": [{"type": "integer"}, {"type": "array", "items": STRING}]}),
     [{"a": 1}, {"a": ["x", "y"]}, {"a": []}], [{"a": "x"}, {"a": [1]}]),
    (of_object(a={"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2}),
     [{"a": [1]}, {"a": [1, 2]}], [{"a": []}, {"a": [1, 2, 3]}]),
    (of_object(a={"type": "integer", "minimum": 3, "maximum": 11}), [{"a": 3}, {"a": 11}],
     [{"a": 2}, {"a": 12}]),
    (of_object(a={"type": "string", "minLength": 2, "maxLength": 3}), [{"a": "xy"}, {"a": "xyz"}],
     [{"a": "x"}, {"a": "wxyz"}]),
    (of_object(a={"type": "string", "pattern": "^[a-c]+/\\d$"}), [{"a": "ab/1"}], [{"a": "ab/x"}]),
    (of_object(a={"type": "string", "pattern": "b"}), [{"a": "abc"}, {"a": "b"}], [{"a": "ac"}]),
    (of_object(a=True), [{"a": {"x": [1, "y"]}}, {"a": None}], [{}]),
    ({"type": "object"}, [{}, {"any": ["thing"]}], []),
    ({"type": "object", "additionalProperties": False}, [{}], [{"a": 1}]),
    ({"type": "object", "additionalProperties": STRING}, [{}, {"k": "x"}], [{"k": 1}]),
    ({"type": "object", "required": ["a"]}, [{"a": 1}], [{}]),
    (TREE, [{"name": "x"}, {"kids": [{"name": "y"}, {"kids": [], "name": "z"}], "name": "x"}],
     [{"kids": []}, {"kids": [{}], "name": "x"}]),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "good", "bad"), SCHEMAS)
def test_a_schema_allows_the_arguments_that_match_it(schema, good, bad):
    for strict in (False, True):
        matcher = matcher_of(schema, strict=strict)
        for arguments in good:
            jsonschema.validate(arguments, schema)
            assert allows(matcher, call(arguments)), arguments
        for arguments in bad:
            assert not allows(matcher, call(arguments)), arguments


def walk(matcher, rng: random.Random) -> str:
    """A random answer that the grammar allows, which ends a string where a coin says so."""
    token_ids: list[int] = []
    while not matcher.inner.is_stopped() and len(token_ids) < 2000:
        allowed = [i for i, bias in enumerate(matcher.inner.compute_logit_bias()) if bias]
        ends = [i for i in allowed if i == EOS or i in SPECIAL.values()]
        token_ids.append(rng.choice(ends if ends and rng.random() < 0.5 else allowed))
        matcher.take(token_ids[-1:])
    assert matcher.inner.is_stopped()
    return TOKENIZER.decode([token_id for token_id in token_ids if token_id != EOS])


@pytest.mark.parametrize("schema", [schema for schema, *_ in SCHEMAS[:12]])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_allowed_is_read_back_and_matches(schema, seed):
    text = walk(matcher_of(schema), random.Random(seed))
    reader = call_reader("gemma4", {"f": schema})
    events = [*reader.feed(text), *reader.finish()]
    assert [event.name for event in events if isinstance(event, CallStarted)] == ["f"]
    arguments = "".join(event.text for event in events if isinstance(event, ArgumentsDelta))
    jsonschema.validate(json.loads(arguments), schema)


@pytest.mark.parametrize("schema", [schema for schema, *_ in SCHEMAS[:3]])
def test_without_tokens_for_its_markers_the_form_is_the_same(schema):
    # No token of this vocabulary has more than a byte.
    vocabulary = Vocabulary(
        tokens=[bytes([i]) for i in range(256)] + [b""], special_token_ids=[256]
    )
    plain = Compiler(vocabulary, 257, [256])
    for good, text in ((True, 'x <|"| y'), (False, 1)):
        arguments = {"a": text} if schema["properties"]["a"] == STRING else {"a": 5, "b": text}
        if "B" in schema["properties"]:
            arguments |= {"B": text}
        matcher = plain.compile(grammar_of(schema, special={}))
        token_ids = [*call(arguments).encode(), 256]
        assert (matcher.inner.validate_tokens(token_ids) == len(token_ids)) == good


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (of_object(a={"type": "array", "uniqueItems": True}), "has 'uniqueItems'"),
        (of_object(a={"anyOf": [STRING], "minLength": 1}), "has 'minLength' beside 'anyOf'"),
        (of_object(a={"oneOf": [STRING]}), "has 'oneOf'"),
        (of_object(a={"$ref": "#/$defs/none"}), "leads nowhere"),
        (of_object(a={"type": "text"}), "the type 'text'"),
        (of_object(a=False), "allows no value"),
        (of_object(a={"type": "string", "pattern": "a(?=b)"}), "has the pattern 'a(?=b)'"),
        (of_object(a={"type": "string", "pattern": "^a|b$|c^"}), "has the pattern"),
        (of_object(a={"type": "string", "pattern": "a", "maxLength": 3}), "beside a length"),
        (of_object(a={"const": '<|"|>'}), "a value with"),
    ],
)
def test_a_strict_schema_that_no_rule_can_say_is_refused(schema, words):
    with pytest.raises(ApiError, match="the schema of the tool 'f'") as caught:
        grammar_of(schema, strict=True)
    assert words in caught.value.message


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "any"},
        {"type": {}},
        {"$ref": "https://x/y"},
        {"type": ["text"]},
        {"allOf": [STRING]},
    ],
)
def test_what_no_rule_can_say_of_a_schema_that_is_not_strict_is_left_out(schema):
    matcher = matcher_of(of_object(a=schema))
    assert allows(matcher, call({"a": ["anything", 1]}))
    assert not allows(matcher, call({}))


def test_a_pattern_that_no_rule_can_say_is_left_out_where_nothing_is_strict():
    schema = {"type": "string", "pattern": "^(?!x).*\\bword$"}
    assert allows(matcher_of(of_object(a=schema)), call({"a": "xyz"}))


def test_names_that_no_bare_key_may_have_stand_between_quotes():
    matcher = matcher_of(of_object(**{"a": STRING, "b: c": {"type": "boolean"}}))
    text = '<|tool_call>call:f{a:<|"|>x<|"|>,<|"|>b: c<|"|>:true}<tool_call|>'
    assert allows(matcher, text)
    reader = call_reader("gemma4", {})
    events = [*reader.feed(text), *reader.finish()]
    arguments = "".join(event.text for event in events if isinstance(event, ArgumentsDelta))
    assert json.loads(arguments) == {"a": "x", "b: c": True}


def test_nesting_is_bounded():
    schema: dict = STRING
    for _ in range(3000):
        schema = {"type": "array", "items": schema}
    with pytest.raises(ApiError, match="nested too deeply"):
        grammar_of(of_object(a=schema))


def test_a_line_of_the_grammar_names_its_tool():
    grammar = grammar_of(of_object(a=STRING))
    lines = [i for i in range(1, grammar.text.count("\n") + 2) if tool_at(grammar, i) == "f"]
    assert len(lines) == 1
