"""Calls of every family, read whole and in any pieces, and text that is no call lost nowhere."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.api.tool_calls.events import ArgumentsDelta, CallEnded, CallStarted, TextDelta
from server.api.tool_calls.families import call_reader, family_of
from tests.api.templates import TEMPLATES

NUMBER = {"type": "integer"}
NAMES = {
    "get_weather": {"properties": {"city": {"type": "string"}}},
    "add": {"properties": {"a": NUMBER, "b": {"anyOf": [{"type": "array"}, {"type": "null"}]}}},
    "now": {},
}
OSLO = '{"city": "Oslo"}'


@dataclass(frozen=True)
class Read:
    """What a reader made of a text: content, and calls as names and argument texts."""

    text: str
    calls: tuple[tuple[str, str], ...]


def read(family: str, *pieces: str) -> Read:
    reader = call_reader(family, NAMES)
    events = [event for piece in pieces for event in reader.feed(piece)] + reader.finish()
    calls: list[list[str]] = []
    open_calls: list[int] = []
    for event in events:
        match event:
            case CallStarted(index, call_id, name):
                assert (index, open_calls) == (len(calls), [])
                assert call_id
                calls.append([name, ""])
                open_calls.append(index)
            case ArgumentsDelta(index, text):
                assert open_calls == [index]
                calls[index][1] += text
            case CallEnded(index):
                open_calls.remove(index)
    assert not open_calls
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    return Read(text, tuple((name, arguments) for name, arguments in calls))


WEATHER = ("get_weather", OSLO)
ADD = ("add", '{"a": 1, "b": [2, {"c": null}]}')
TAGGED = (
    "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n"
    "</tool_call>"
)
TAGGED_ADD = (
    "<tool_call><function=add><parameter=a>\n1\n</parameter>"
    '<parameter=b>[2, {"c": null}]</parameter></function></tool_call>'
)

GEMMA4 = 'call:get_weather{city:<|"|>Oslo<|"|>}'
GEMMA4_ADD = "call:add{a:1,b:[2,{c:null}]}"

CALLS = [
    ("hermes", f'<tool_call>\n{{"name": "get_weather", "arguments": {OSLO}}}\n</tool_call>', "", 1),
    (
        "hermes",
        f'Let me see.\n<tool_call>\n{{"name": "get_weather", "arguments": {OSLO}}}\n</tool_call>\n'
        f'<tool_call>{{"name": "add", "arguments": {ADD[1]}}}</tool_call>\n',
        "Let me see.",
        2,
    ),
    ("hermes", f'<tool_call>{{"arguments": {OSLO}, "name": "get_weather"}}</tool_call>', "", 1),
    ("hermes", f'<tool_call>{{"name": "get_weather", "arguments": {OSLO}}}', "", 1),
    (
        "hermes",
        f'<tool_call>{{"type": "function", "function": {{"name": "get_weather", "arguments":'
        f" {OSLO}}}}}</tool_call>",
        "",
        1,
    ),
    (
        "hermes",
        '<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"Oslo\\"}"}</tool_call>',
        "",
        1,
    ),
    (
        "hermes",
        f'<tool_call>{{"name": "get_weather", "arguments": {OSLO}}}</tool_call> Done.',
        "Done.",
        1,
    ),
    ("llama3_json", f'{{"name": "get_weather", "parameters": {OSLO}}}', "", 1),
    ("llama3_json", f'\n\n{{"name": "get_weather", "arguments": {OSLO}}}', "", 1),
    ("llama3_json", f'<|python_tag|>{{"name": "get_weather", "parameters": {OSLO}}}', "", 1),
    (
        "llama3_json",
        f'{{"type": "function", "name": "get_weather", "parameters": {OSLO}}}; '
        f'{{"name": "add", "parameters": {ADD[1]}}}',
        "",
        2,
    ),
    ("mistral", f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {OSLO}}}]', "", 1),
    (
        "mistral",
        f'Well.[TOOL_CALLS][{{"name": "get_weather", "arguments": {OSLO}, "id": "abcdefghi"}},'
        f' {{"name": "add", "arguments": {ADD[1]}}}]',
        "Well.",
        2,
    ),
    ("mistral", f"[TOOL_CALLS]get_weather{OSLO}[TOOL_CALLS]add{ADD[1]}", "", 2),
    ("mistral", f"[TOOL_CALLS]get_weather[CALL_ID]abcdefghi[ARGS]{OSLO}", "", 1),
    ("gemma3", '```tool_code\nget_weather(city="Oslo")\n```', "", 1),
    ("gemma3", f'Hi!\n```json\n[{{"name": "get_weather", "parameters": {OSLO}}}]\n```', "Hi!", 1),
    ("gemma3", "[get_weather(city='Oslo'), add(a=1, b=[2, {'c': None}])]", "", 2),
    ("gemma4", f"<|tool_call>{GEMMA4}<tool_call|>", "", 1),
    (
        "gemma4",
        f"Well.\n<|tool_call>{GEMMA4}<tool_call|><|tool_call>{GEMMA4_ADD}<tool_call|>",
        "Well.",
        2,
    ),
    ("gemma4", f"<|tool_call>{GEMMA4}<tool_call|><|tool_response>", "", 1),
    ("gemma4", f"<|tool_call>\n{GEMMA4}", "", 1),
    ("gemma4", '<|tool_call>call:get_weather{ "city": "Oslo" }<tool_call|>', "", 1),
    ("gemma4", '<|tool_call>call:get_weather{<|"|>city<|"|>: Oslo}<tool_call|> Done.', "Done.", 1),
    ("qwen3_coder", TAGGED, "", 1),
    ("qwen3_coder", f"Well.\n{TAGGED}\n{TAGGED_ADD}\n", "Well.", 2),
    ("qwen3_coder", TAGGED.removeprefix("<tool_call>\n").removesuffix("</tool_call>"), "", 1),
    ("pythonic", '[get_weather(city="Oslo")]', "", 1),
    ("pythonic", ' [get_weather(city="Oslo"), add(a=1, b=[2, {"c": null}])]', "", 2),
]  # fmt: skip


@pytest.mark.parametrize(("family", "text", "content", "num_calls"), CALLS)
def test_calls_are_read(family, text, content, num_calls):
    assert read(family, text) == Read(content, (WEATHER, ADD)[:num_calls])


NO_CALLS = [
    ("hermes", "Hello <b>, {x} and <tool_"),
    ("hermes", "<tool_call>oops</tool_call> and more"),
    ("hermes", '<tool_call>{"name": "get_weather", "arguments": [1]}</tool_call>'),
    ("hermes", '<tool_call>{"name": "get_weather", "argu'),
    ("hermes", '<tool_call>{"name": 5, "arguments": {}}</tool_call>'),
    ("hermes", "  spaces stay \n"),
    ("llama3_json", '{"name": "Alice", "age": 3}'),
    ("llama3_json", '{"answer": 42}'),
    ("llama3_json", 'The answer: {"name": "get_weather", "parameters": {}}'),
    ("llama3_json", '<|python_tag|>brave_search.call(query="x")'),
    ("mistral", "[TOOL_CALLS] sorry, no"),
    ("mistral", "[TOOL_CALLS][1, 2]"),
    ("mistral", "[TOOL_CALL] is no marker"),
    ("gemma3", "```python\nprint(1)\n```\nThat prints 1."),
    ("gemma3", "```tool_code\nget_weather("),
    ("gemma3", '```json\n{"name": "Alice"}\n``` and more'),
    ("gemma4", "<|tool_call> oops and <|tool_"),
    ("gemma4", "<|tool_call>call:get_weather(city)<tool_call|>"),
    ("gemma4", "<|tool_call>call:get_weather{city}<tool_call|> and more"),
    ("gemma4", "<|tool_call>call:get_weather{city:}<tool_call|>"),
    ("gemma4", '<|tool_call>call:get_weather{<|"|>ci'),
    ("gemma4", "<|tool_call>call:get_weather[]"),
    ("gemma4", '<|tool_call>get_weather{city:<|"|>Oslo<|"|>}<tool_call|>'),
    ("qwen3_coder", "<tool_call>\noops"),
    ("qwen3_coder", "<tool_call>\n<function=get_weather>\n<parameter=city>\nOs"),
    ("qwen3_coder", "a <function=> b </function> c"),
    ("pythonic", "[1] is a footnote"),
    ("pythonic", "[unknown(a=1)] is none of the tools"),
    ("pythonic", "[get_weather(city=open('/etc/passwd'))]"),
    ("pythonic", "[get_weather('Oslo')]"),
]


@pytest.mark.parametrize(("family", "text"), NO_CALLS)
def test_text_that_is_no_call_is_content_and_loses_nothing(family, text):
    assert read(family, text) == Read(text, ())


EVERY_TEXT = [(family, text) for family, text, *_ in CALLS] + NO_CALLS


@st.composite
def cut_texts(draw: st.DrawFn) -> tuple[str, list[str]]:
    """Texts with calls, whole, broken off or with a character changed, in pieces."""
    family, text = draw(st.sampled_from(EVERY_TEXT))
    match draw(st.sampled_from(["whole", "broken off", "changed", "twice"])):
        case "broken off":
            text = text[: draw(st.integers(0, len(text)))]
        case "changed":
            at = draw(st.integers(0, len(text) - 1))
            text = text[:at] + draw(st.sampled_from(list('{}[]",:;\\x1 \n<`|'))) + text[at + 1 :]
        case "twice":
            text = text + draw(st.sampled_from(["", " ", "\nand "])) + text
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return family, [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@settings(max_examples=400, deadline=None)
@given(cut_texts())
def test_pieces_give_what_the_whole_text_gives(cut):
    family, pieces = cut
    whole = "".join(pieces)
    assert read(family, *pieces) == read(family, whole) == read(family, *whole)


@pytest.mark.parametrize("family", ["hermes", "llama3_json", "mistral", "gemma4"])
def test_arguments_are_passed_on_while_they_come(family):
    opening = {
        "hermes": '<tool_call>\n{"name": "add", "arguments": ',
        "llama3_json": '{"name": "add", "parameters": ',
        "mistral": '[TOOL_CALLS] [{"name": "add", "arguments": ',
        "gemma4": "<|tool_call>call:add",
    }[family]
    quote = '<|"|>' if family == "gemma4" else '"'
    reader = call_reader(family, NAMES)
    events = reader.feed(opening + "{") + reader.feed(f"{quote}a{quote}: {quote}long ")
    (started,) = [event for event in events if isinstance(event, CallStarted)]
    assert started.name == "add"
    begun = "".join(event.text for event in events if isinstance(event, ArgumentsDelta))
    assert begun == '{"a": "long '
    assert reader.feed(f"text{quote}") == [ArgumentsDelta(0, 'text"')]


def test_a_call_that_is_broken_off_keeps_what_came():
    text = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b'
    assert read("hermes", text) == Read("", (("add", '{"a": 1, "b'),))


def test_text_after_arguments_that_break_off_is_content():
    text = '<tool_call>{"name": "add", "arguments": {"a": oops}}</tool_call>'
    assert read("hermes", text) == Read("}}</tool_call>", (("add", '{"a": oops'),))


def test_line_breaks_inside_strings_are_escaped():
    text = '<tool_call>{"name": "add", "arguments": {"a": "x\ny\t"}}</tool_call>'
    ((_, arguments),) = read("hermes", text).calls
    assert json.loads(arguments) == {"a": "x\ny\t"}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ('<|"|>a "b" \\ {c}, [d]:\n\t<|<|"<|"|>', 'a "b" \\ {c}, [d]:\n\t<|<|"'),
        ('<|"|><|"|>', ""),
        ("-1.5e3", -1500.0),
        ("007", "007"),
        ("True", True),
        ("None", None),
        ("a bare word: 1", "a bare word: 1"),
        ('"in \\"JSON\\""', 'in "JSON"'),
        ('[{x:[]},<|"|>é<|"|>,{}]', [{"x": []}, "é", {}]),
    ],
)
def test_gemma_4_s_values_become_json(written, value):
    ((_, arguments),) = read("gemma4", f"<|tool_call>call:add{{a:{written}, b:1}}").calls
    assert json.loads(arguments) == {"a": value, "b": 1}


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(alphabet='ab <|">{}[],:\\\n\x00é', max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("kxyz"), inner),
    max_leaves=6,
).filter(lambda value: '<|"|>' not in json.dumps(value, ensure_ascii=False).replace('\\"', '"'))


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b-c", "d.e f"]), JSON), st.data())
def test_what_gemma_4_s_template_writes_is_read_back(arguments, data):
    text = f"<|tool_call>call:add{in_gemma4(arguments)}<tool_call|>"
    at = data.draw(st.integers(0, len(text)))
    ((_, written),) = read("gemma4", text[:at], text[at:]).calls
    assert json.loads(written) == arguments


def in_gemma4(value: object) -> str:
    """As Gemma 4's template writes a value."""
    match value:
        case str():
            return f'<|"|>{value}<|"|>'
        case dict():
            return f"{{{','.join(f'{key}:{in_gemma4(item)}' for key, item in value.items())}}}"
        case list():
            return f"[{','.join(map(in_gemma4, value))}]"
    return json.dumps(value)


def test_a_gemma_4_call_that_is_broken_off_keeps_what_came():
    text = '<|tool_call>call:add{a:<|"|>long te'
    assert read("gemma4", text) == Read("", (("add", '{"a": "long te'),))
    assert read("gemma4", "<|tool_call>call:add{a:12") == Read("", (("add", '{"a": 12'),))


@pytest.mark.parametrize(
    ("text", "value"), [("1", 1), ("null", None), ("many", "many"), ("[1]", [1])]
)
def test_tagged_values_are_read_by_the_tool_s_schema(text, value):
    schema = {"properties": {"x": {"type": ["integer", "null", "array"]}, "y": {"type": "string"}}}
    reader = call_reader("qwen3_coder", {"f": schema})
    tags = f"<parameter=x>\n{text}\n</parameter><parameter=y>\n1\n</parameter>"
    events = reader.feed(f"<function=f>{tags}</function>")
    (arguments,) = [event.text for event in events if isinstance(event, ArgumentsDelta)]
    assert json.loads(arguments) == {"x": value, "y": "1"}


def test_a_call_without_arguments_has_an_empty_object():
    assert read("hermes", '<tool_call>{"name": "now"}</tool_call>').calls == (("now", "{}"),)
    assert read("pythonic", "[now()]").calls == (("now", "{}"),)


@pytest.mark.parametrize("depth", [100, 100_000])
def test_nesting_is_bounded(depth):
    text = '<tool_call>{"name": "add", "arguments": {"a": ' + "[" * depth
    assert sum(len(arguments) for _, arguments in read("hermes", text).calls) < 250


def test_python_that_is_nested_too_deeply_is_content():
    text = "[add(a=" + "[" * 100_000 + "]" * 100_000 + ")]"
    assert read("pythonic", text) == Read(text, ())


def test_mistral_s_ids_are_those_its_template_takes():
    reader = call_reader("mistral", NAMES)
    (started, *_) = reader.feed(f"[TOOL_CALLS]get_weather{OSLO}")
    assert len(started.id) == 9
    assert started.id.isalnum()


@pytest.mark.parametrize(
    ("template", "family"),
    [
        ("qwen2", "hermes"),
        ("qwen3", "hermes"),
        ("llama3", "llama3_json"),
        ("mistral", "mistral"),
        ("gemma3", None),
        ("gemma4", "gemma4"),
        ("gemma4-first", "gemma4"),
    ],
)
def test_the_family_is_known_by_the_template(template, family):
    assert family_of(TEMPLATES[template]) == family
