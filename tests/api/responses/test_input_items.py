"""Input items as messages: what makes one turn, and what is refused by its type."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter

from server.api.chat.messages import Message, ToolCall
from server.api.responses.input_items import Input, read_input
from server.errors import ApiError

ADAPTER = TypeAdapter(Input)
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "7"}
READ_CALL = ToolCall(id="c1", name="f", arguments={"a": 1})


def read(given, instructions=None) -> list[Message]:
    return list(read_input(ADAPTER.validate_python(given), instructions))


def test_a_string_is_what_the_user_says():
    assert read("hi") == [Message(role="user", content="hi")]


def test_instructions_come_first_as_a_system_message():
    messages = read([{"role": "developer", "content": "d"}], instructions="i")
    assert [(m.role, m.content) for m in messages] == [("system", "i"), ("developer", "d")]


@pytest.mark.parametrize(
    "content",
    [
        "a\nb",
        [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}],
        [
            {"type": "output_text", "text": "a", "annotations": []},
            {"type": "refusal", "refusal": "b"},
        ],
    ],
)
def test_text_parts_of_every_kind_are_joined(content):
    assert read([{"role": "assistant", "content": content}])[0].content == "a\nb"


def test_reasoning_message_and_calls_are_one_turn_of_the_assistant():
    thought = {"type": "reasoning", "id": "rs", "summary": [], "content": [
        {"type": "reasoning_text", "text": "t"}
    ]}  # fmt: skip
    said = {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "s"}],
    }
    messages = read([{"role": "user", "content": "u"}, thought, said, CALL, OUTPUT])
    assert messages[1:] == [
        Message(role="assistant", content="s", reasoning="t", tool_calls=(READ_CALL,)),
        Message(role="tool", content="7", name="f", tool_call_id="c1"),
    ]


def test_what_follows_calls_is_a_turn_of_its_own():
    said = {"role": "assistant", "content": "s"}
    messages = read([CALL, said])
    assert [(m.content, len(m.tool_calls)) for m in messages] == [("", 1), ("s", 0)]


def test_a_summary_stands_for_reasoning_without_content():
    summary = [{"type": "summary_text", "text": "short"}]
    messages = read(
        [{"type": "reasoning", "summary": summary}, {"role": "assistant", "content": "s"}]
    )
    assert messages == [Message(role="assistant", content="s", reasoning="short")]


def test_encrypted_reasoning_adds_no_message():
    item = {"type": "reasoning", "summary": [], "encrypted_content": "gAAA"}
    assert read([{"role": "user", "content": "u"}, item]) == [Message(role="user", content="u")]


@pytest.mark.parametrize("output", ["7", [{"type": "input_text", "text": "7"}]])
def test_results_are_text_or_text_parts(output):
    assert read([CALL, {**OUTPUT, "output": output}])[-1].content == "7"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "input must not be empty"),
        ([{"type": "item_reference", "id": "x"}], r"input\[0\] refers to a stored item"),
        ([{"type": "computer_call"}], "'computer_call'"),
        ([{}], "of type ''"),
        ([{"role": "tool", "content": "x"}], "role 'tool'"),
        ([{"role": "user"}], r"input\[0\].content is missing or empty"),
        ([{"role": "user", "content": []}], "missing or empty"),
        (
            [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}],
            r"input\[0\].content\[0\] has a URL that begins with 'x'",
        ),
        (
            [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}],
            r"input\[0\].content\[0\] is an image without image_url",
        ),
        ([{"role": "user", "content": [{"type": "input_text"}]}], "without its text"),
        ([CALL, {**OUTPUT, "output": [{"type": "input_file"}]}], "'input_file'"),
        ([OUTPUT], "'c1', which no function_call before it has"),
        ([{**CALL, "call_id": ""}], r"input\[0\] has no call_id"),
        ([{**CALL, "name": None}], "has no name"),
        ([{**CALL, "arguments": "[1]"}], "give the JSON of an object"),
    ],
)
def test_what_cannot_be_read_is_named(given, said):
    with pytest.raises(ApiError, match=said):
        read(given)
