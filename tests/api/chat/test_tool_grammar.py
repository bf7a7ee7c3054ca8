"""Grammars of answers with calls: what they allow, and that every family's reader reads it back."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from functools import cache

import jsonschema
import pytest

from server.api.chat.answer_grammar import after_reasoning, answer_body
from server.api.chat.reasoning import FORMATS
from server.api.chat.tool_grammar import AnswerForm, tool_grammar
from server.api.chat.tools import Tool, ToolChoice
from server.api.tool_calls.events import ArgumentsDelta, CallStarted, TextDelta
from server.api.tool_calls.families import MARKERS, call_reader
from server.errors import ApiError
from server.grammar.compiler import Compiler
from server.grammar.grammar_error import GrammarError
from server.link.frames import Vocabulary
from server.link.sampling import Grammar
from tests.api.templates import TEMPLATES, tokenizer_with

EOS = 262
TOKENIZER = tokenizer_with(TEMPLATES["qwen3"])
UNIT = Tool(
    name="get_weather",
    strict=True,
    parameters={
        "type": "object",
        "properties": {
            "unit": {"enum": ["C", "F"]},
            "days": {"$ref": "#/$defs/days"},
        },
        "required": ["unit", "days"],
        "additionalProperties": False,
        "$defs": {"days": {"enum": [1, 2]}},
    },
)
NOW = Tool(name="now", parameters={"type": "object", "additionalProperties": False})
REQUIRED, AUTO = ToolChoice("required"), ToolChoice("auto")
FAMILIES = ["hermes", "llama3_json", "mistral", "gemma3", "gemma4"]


@cache
def compiler() -> Compiler:
    ids = range(TOKENIZER.vocab_size)
    tokens = [TOKENIZER.token_bytes(token_id) for token_id in ids]
    special = [i for i in ids if TOKENIZER.special_id(TOKENIZER.token_text(i)) == i]
    vocabulary = Vocabulary(tokens=tokens, special_token_ids=special)
    return Compiler(vocabulary, TOKENIZER.vocab_size, [EOS])


def form(family: str, **fields: object) -> AnswerForm:
    markers = MARKERS[family]
    special = {m: i for m in markers if (i := TOKENIZER.special_id(m)) is not None}
    return AnswerForm(family=family, special=special, **fields)


def matcher(family="hermes", choice=REQUIRED, tools=(UNIT, NOW), *, parallel=True, **fields):
    grammar = tool_grammar(tools, choice, parallel=parallel, form=form(family, **fields))
    assert grammar is not None
    return compiler().compile(grammar)


def allows(matcher, text: str) -> bool:
    """Whether the whole text may be an answer."""
    token_ids = [*TOKENIZER.encode(text), EOS]
    return matcher.inner.validate_tokens(token_ids) == len(token_ids)


def in_gemma4(value: object) -> str:
    match value:
        case str():
            return f'<|"|>{value}<|"|>'
        case dict():
            keys = sorted(value, key=str.lower)
            return "{" + ",".join(f"{key}:{in_gemma4(value[key])}" for key in keys) + "}"
        case list():
            return f"[{','.join(map(in_gemma4, value))}]"
    return json.dumps(value)


def written(family: str, *calls: tuple[str, str]) -> str:
    if family == "gemma4":
        bodies = [f"call:{name}{in_gemma4(json.loads(arguments))}" for name, arguments in calls]
        return "".join(f"<|tool_call>{body}<tool_call|>" for body in bodies)
    key = "parameters" if family == "llama3_json" else "arguments"
    objects = [f'{{"name": "{name}", "{key}": {arguments}}}' for name, arguments in calls]
    return {
        "hermes": "\n".join(f"<tool_call>\n{one}\n</tool_call>" for one in objects),
        "llama3_json": "; ".join(objects),
        "mistral": f"[TOOL_CALLS][{', '.join(objects)}]",
        "gemma3": f"```tool_call\n[{', '.join(objects)}]\n```",
    }[family]


GOOD = ("get_weather", '{"unit": "C", "days": 2}')
BAD = ("get_weather", '{"unit": "K", "days": 2}')
OTHER = ("now", "{}")


@pytest.mark.parametrize("family", FAMILIES)
class TestEveryFamily:
    def test_a_required_choice_allows_calls_that_match_their_schemas_and_nothing_else(self, family):
        required = matcher(family)
        assert allows(required, written(family, GOOD))
        assert allows(required, written(family, OTHER, GOOD))
        assert not allows(required, written(family, BAD))
        assert not allows(required, written(family, ("unknown", "{}")))
        assert not allows(required, "It is warm.")
        assert not allows(required, "")

    def test_without_parallel_calls_there_is_one(self, family):
        single = matcher(family, parallel=False)
        assert allows(single, written(family, GOOD))
        assert not allows(single, written(family, GOOD, GOOD))

    def test_a_named_tool_is_the_only_one(self, family):
        named = matcher(family, ToolChoice("named", "now"))
        assert allows(named, written(family, OTHER))
        assert not allows(named, written(family, GOOD))
        assert not allows(named, written(family, OTHER, OTHER))

    def test_a_free_choice_allows_text_and_holds_strict_tools_to_their_schemas(self, family):
        free = matcher(family, AUTO)
        assert allows(free, "It is warm, I think. <b>")
        assert allows(free, "")
        assert allows(free, written(family, GOOD))
        assert not allows(free, written(family, BAD))
        assert allows(free, written(family, ("now", '{"anything": 1}')))

    @pytest.mark.parametrize("seed", range(3))
    def test_what_a_grammar_allows_its_reader_reads_back(self, family, seed):
        text = walk(matcher(family), random.Random(seed))
        reader = call_reader(family, {UNIT.name: UNIT.schema, NOW.name: NOW.schema})
        events = [*reader.feed(text), *reader.finish()]
        names = [event.name for event in events if isinstance(event, CallStarted)]
        assert names
        assert not any(isinstance(event, TextDelta) for event in events)
        for index, name in enumerate(names):
            pieces = [e.text for e in events if isinstance(e, ArgumentsDelta) and e.index == index]
            schema = {UNIT.name: UNIT, NOW.name: NOW}[name].schema
            jsonschema.validate(json.loads("".join(pieces)), schema)


def walk(matcher, rng: random.Random) -> str:
    """A random answer of at most 400 tokens that the grammar allows."""
    token_ids: list[int] = []
    while not matcher.inner.is_stopped() and len(token_ids) < 400:
        allowed = [i for i, bias in enumerate(matcher.inner.compute_logit_bias()) if bias]
        token_id = EOS if EOS in allowed else rng.choice(allowed)
        matcher.take([token_id])
        assert not matcher.error
        token_ids.append(token_id)
    assert matcher.inner.is_stopped()
    return TOKENIZER.decode([token_id for token_id in token_ids if token_id != EOS])


def test_text_may_stand_before_a_call_of_a_free_choice():
    free = matcher("hermes", AUTO)
    assert allows(free, "Let me see.\n" + written("hermes", GOOD))
    assert not allows(free, "Let me see.\n" + written("hermes", BAD))


def test_a_required_call_may_follow_reasoning():
    thinking = matcher("hermes", tags=FORMATS["qwen3"])
    call = written("hermes", GOOD)
    assert allows(thinking, call)
    assert allows(thinking, "<think>\nHm. <tool_call>\n</think>\n\n" + call)
    assert not allows(thinking, "Hm. " + call)


def test_reasoning_that_the_prompt_has_opened_must_end_before_a_call():
    thinking = matcher("hermes", tags=FORMATS["qwen3"], is_reasoning=True)
    assert allows(thinking, "Hm.\n</think>\n\n" + written("hermes", GOOD))
    assert not allows(thinking, written("hermes", GOOD))


@pytest.mark.parametrize(
    ("grammar", "good", "bad"),
    [
        (Grammar("json_schema", json.dumps(UNIT.schema)), GOOD[1], BAD[1]),
        (Grammar("json_object", ""), '{"a": 1}', "[1]"),
        (Grammar("choice", '["yes", "no"]'), "no", "maybe"),
    ],
)
def test_what_a_client_asks_for_stands_behind_reasoning(grammar, good, bad):
    behind = after_reasoning(grammar, form("hermes", tags=FORMATS["qwen3"], is_reasoning=True))
    matcher = compiler().compile(behind)
    assert allows(matcher, f"Hm. {bad}\n</think>\n\n{good}")
    assert not allows(matcher, f"Hm.\n</think>\n\n{bad}")
    assert not allows(matcher, good)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_without_calls_has_the_form_that_the_client_asks_for(family):
    schema = {"type": "object", "properties": {"temp": {"enum": [1, 2]}}, "required": ["temp"]}
    schema["additionalProperties"] = False
    body = answer_body(Grammar("json_schema", json.dumps(schema)))
    grammar = tool_grammar([UNIT, NOW], AUTO, parallel=True, form=form(family), answer=body)
    either = compiler().compile(grammar)
    assert allows(either, '{"temp": 2}')
    assert allows(either, written(family, GOOD))
    assert not allows(either, '{"temp": 3}')
    assert not allows(either, "It is warm.")
    assert not allows(either, written(family, BAD))


def test_a_free_choice_without_strict_tools_and_a_choice_of_none_have_no_grammar():
    assert tool_grammar([NOW], AUTO, parallel=True, form=form("hermes")) is None
    assert tool_grammar([UNIT], ToolChoice("none"), parallel=True, form=form("hermes")) is None


def test_only_a_strict_schema_must_be_expressible_in_whole():
    unique = {"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": True}
    tool = Tool(name="f", parameters={"type": "object", "properties": {"a": unique}})
    assert allows(matcher(tools=[tool]), written("hermes", ("f", '{"a": [1, 2]}')))
    assert not allows(matcher(tools=[tool]), written("hermes", ("f", '{"a": [3]}')))
    with pytest.raises(GrammarError, match="uniqueItems"):
        matcher(tools=[replace(tool, strict=True)])


@pytest.mark.parametrize("family", ["pythonic", "qwen3_coder"])
def test_a_form_that_is_no_json_cannot_be_held_to_strict_schemas(family):
    with pytest.raises(ApiError, match=family) as caught:
        tool_grammar([UNIT], AUTO, parallel=True, form=form(family))
    assert caught.value.param == "tools"
