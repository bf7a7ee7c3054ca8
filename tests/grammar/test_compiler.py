"""Which grammars compile, what they allow, and how the others are refused."""

from __future__ import annotations

import json

import pytest

from server.grammar.compiler import MAX_GRAMMAR_CHARS
from server.grammar.grammar_error import GrammarError
from server.link.sampling import Grammar
from tests.grammar.vocabularies import CALL, EOS, allowed, ids, make_compiler

TAG = {
    "structures": [{"begin": "<f>", "schema": {"type": "integer"}, "end": "</f>"}],
    "triggers": ["<f"],
}


def optional_properties(num: int) -> dict:
    return {"type": "object", "properties": {f"p{i}": {"type": "integer"} for i in range(num)}}


def required_properties(num: int) -> str:
    schema = optional_properties(num)
    return json.dumps(schema | {"required": list(schema["properties"])})


UNION = {
    "anyOf": [
        optional_properties(499) | {"additionalProperties": {"const": place}} for place in range(3)
    ]
}
MANY = [f"the word {i}" for i in range(10_000)]
FITTING = {
    "schema": (Grammar("json_schema", '{"type": "integer"}'), "12"),
    "object": (Grammar("json_object", ""), '{"a": [1, {}]}'),
    "regex": (Grammar("regex", "a[bc]+"), "abcb"),
    "choice": (Grammar("choice", '["one", "\\u00e9\\n\\ud83d\\ude00\\""]'), 'é\n😀"'),
    "empty choice": (Grammar("choice", '[""]'), ""),
    "10,000 choices": (Grammar("choice", json.dumps(MANY)), MANY[-1]),
    "choice of symbols": (Grammar("choice", json.dumps(["/[a-z]*|.+/", "\\x{61}"])), "/[a-z]*|.+/"),
    "500 optional properties": (
        Grammar("json_schema", json.dumps(optional_properties(500))),
        '{"p3": 1, "p499": 2}',
    ),
    "1,000 properties": (
        Grammar("json_schema", required_properties(1000)),
        "{" + ", ".join(f'"p{i}": 1' for i in range(1000)) + "}",
    ),
    "lark": (Grammar("lark", 'start: "a" b\nb: "b"+'), "abb"),
    "gbnf": (Grammar("lark", 'root ::= "a" b\nb ::= [0-9]+'), "a17"),
    "tag": (Grammar("structural_tag", json.dumps(TAG)), "so <f>12</f> it is"),
}


@pytest.mark.parametrize(("grammar", "text"), FITTING.values(), ids=FITTING)
def test_a_text_that_fits_may_end_and_another_may_not(grammar, text):
    matcher = make_compiler().compile(grammar)
    matcher.take(ids(text))
    assert matcher.error == ""
    assert EOS in allowed(matcher)
    other = make_compiler().compile(grammar)
    other.take(ids("\x00"))
    if grammar.kind == "structural_tag":  # Any text fits, but not inside of a structure.
        other.take(ids("<f>x"))
    assert other.error


def test_after_the_end_nothing_but_the_end_token_is_allowed():
    matcher = make_compiler().compile(Grammar("choice", '["ab"]'))
    assert allowed(matcher, new=ids("ab")) == {EOS}


def test_a_choice_that_begins_another_may_end_or_go_on():
    matcher = make_compiler().compile(Grammar("choice", '["ab", "abc", "d"]'))
    assert allowed(matcher, new=ids("ab")) >= {EOS, *ids("c")}
    assert allowed(matcher, new=ids("c")) == {EOS}


def test_what_only_shows_in_the_text_is_said_plainly_too():
    schema = {"type": "object", "properties": {"a": UNION}}
    matcher = make_compiler().compile(Grammar("json_schema", json.dumps(schema)))
    matcher.take(ids('{"a": {"p1": 1'))
    assert "too many things may follow at one place" in matcher.error
    assert "row" not in matcher.error


def test_special_tokens_and_ids_without_text_are_never_text():
    matcher = make_compiler().compile(Grammar("regex", "(.|\n)*"))
    tokens = allowed(matcher)
    assert CALL not in tokens
    assert max(tokens) == EOS


def test_a_special_token_begins_a_structure():
    tag = {**TAG, "triggers": ["<call>"]}
    tag["structures"] = [{"begin": "<call>", "schema": {"type": "integer"}, "end": ""}]
    matcher = make_compiler().compile(Grammar("structural_tag", json.dumps(tag)))
    matcher.take([*ids("x"), CALL, *ids("7")])
    assert matcher.error == ""


REFUSED = {
    "type": (Grammar("json_schema", '{"type": "strin"}'), "strin"),
    "no JSON": (Grammar("json_schema", "{"), ""),
    "keyword": (Grammar("json_schema", '{"not": {}}'), "not"),
    "format": (Grammar("json_schema", '{"type": "string", "format": "x"}'), "Unknown format: x"),
    "reference": (Grammar("json_schema", '{"$ref": "#/$defs/a"}'), "/$defs/a"),
    "nothing": (Grammar("json_schema", "false"), "Unsatisfiable"),
    "regex": (Grammar("regex", "("), "unclosed group"),
    "look-ahead": (Grammar("regex", "(?=a)b"), "look-ahead"),
    "no choice": (Grammar("choice", "[]"), "1 to 10000 entries, not 0"),
    "numbers": (Grammar("choice", "[1]"), "list of strings"),
    "lark": (Grammar("lark", "start: b"), "b"),
    "neither": (Grammar("lark", "((("), "neither Lark nor GBNF"),
    "new tag": (Grammar("structural_tag", '{"format": {}}'), "format is not supported"),
    "trigger": (
        Grammar("structural_tag", json.dumps({**TAG, "triggers": ["x"]})),
        "no trigger begins the structure '<f>'",
    ),
    "long": (Grammar("regex", "a" * (MAX_GRAMMAR_CHARS + 1)), "at most 262144"),
    "depth": (Grammar("json_schema", '{"items":' * 500 + "{}" + "}" * 500), "recursion"),
    "gbnf depth": (Grammar("lark", "root ::= " + "(" * 9000 + '"a"' + ")" * 9000), "deeply"),
    "size": (Grammar("json_schema", required_properties(5000)), "more than 20000 symbols; split"),
    "optional": (
        Grammar("json_schema", json.dumps({"items": optional_properties(501)})),
        "its part #/items has 501 optional properties one after another; at most 500 can",
    ),
    "union": (Grammar("json_schema", json.dumps(UNION)), "too many things may follow"),
    "list": (Grammar("json_schema", json.dumps({"items": UNION})), "too many things may follow"),
    "itself": (Grammar("json_schema", '{"$ref": "#"}'), "a part of it refers to itself"),
    "other document": (
        Grammar("json_schema", '{"properties": {"a": {"$ref": "https://x.org/y"}}}'),
        "its part #/properties/a refers to 'https://x.org/y', another document",
    ),
    "meta-schema": (
        Grammar("json_schema", '{"$ref": "https://json-schema.org/draft/2020-12/schema"}'),
        "another document; write what it refers to into $defs",
    ),
    "bounds": (
        Grammar("json_schema", json.dumps({"type": "integer", "minimum": -(10**30)})),
        "the bounds of a number are too far from 0",
    ),
}


@pytest.mark.parametrize(("grammar", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_compiled_is_refused_with_the_reason(grammar, words):
    with pytest.raises(GrammarError) as refused:
        make_compiler().compile(grammar)
    assert words in str(refused.value)
    assert str(refused.value).strip()


@pytest.mark.parametrize("options", ["", '"x-guidance": {"whitespace_flexible": false},'])
def test_blanks_are_bounded_unless_a_schema_has_options_of_its_own(options):
    schema = "{" + options + '"type": "array", "items": {"type": "null"}}'
    for num_blanks, fits in ((0, True), (20, not options), (21, False)):
        matcher = make_compiler().compile(Grammar("json_schema", schema))
        matcher.take(ids("[" + " " * num_blanks + "null]"))
        assert (matcher.error == "") == fits


def test_matchers_of_one_grammar_go_their_own_ways():
    first, second = (make_compiler().compile(Grammar("regex", "[ab]c")) for _ in range(2))
    first.take(ids("a"))
    assert allowed(first) == set(ids("c"))
    assert allowed(second) >= set(ids("ab"))
    copy = first.copy()
    copy.take(ids("c"))
    assert (first.num_tokens, copy.num_tokens) == (1, 2)


def test_withheld_tokens_are_allowed_only_where_nothing_else_is():
    matcher = make_compiler().compile(Grammar("regex", "a{1,2}"))
    assert allowed(matcher, new=ids("a"), withheld=[EOS]) == set(ids("a"))
    assert allowed(matcher, new=ids("a"), withheld=[EOS]) == {EOS}


def test_a_token_that_does_not_fit_is_an_error_that_stays_and_quotes_no_text():
    matcher = make_compiler().compile(Grammar("regex", "secret"))
    matcher.take(ids("secx"))
    assert matcher.error.startswith("the grammar cannot go on after 3 tokens: ")
    assert "sec" not in matcher.error
    before = matcher.error
    matcher.take(ids("r"))
    assert (matcher.error, matcher.num_tokens) == (before, 3)
