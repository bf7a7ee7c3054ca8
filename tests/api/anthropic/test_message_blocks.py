"""Anthropic's messages as typed messages: turns are joined, and what cannot be read is named."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter

from server.api.anthropic.message_blocks import AnthropicMessageBody, TextBlocks, read_messages
from server.api.chat.messages import Message, ToolCall
from server.errors import ApiError

MESSAGES, SYSTEM = TypeAdapter(list[AnthropicMessageBody]), TypeAdapter(TextBlocks)
USE = {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "7"}
READ_USE = ToolCall(id="t1", name="f", arguments={"a": 1})


def read(*messages, system=None) -> list[Message]:
    bodies = [{"role": role, "content": content} for role, content in messages]
    read = read_messages(SYSTEM.validate_python(system), MESSAGES.validate_python(bodies))
    return list(read)


def text(*texts: str) -> list[dict]:
    return [{"type": "text", "text": text} for text in texts]


@pytest.mark.parametrize("system", ["a\nb", text("a", "b")])
def test_the_system_prompt_is_the_first_message(system):
    messages = read(("user", "u"), system=system)
    assert messages == [Message(role="system", content="a\nb"), Message(role="user", content="u")]


def test_messages_of_one_role_in_a_row_are_one_turn():
    messages = read(("user", "a"), ("user", text("b", "c")), ("assistant", "d"), ("assistant", "e"))
    assert [(m.role, m.content) for m in messages] == [("user", "a\nb\nc"), ("assistant", "d\ne")]


def test_thinking_text_and_uses_are_one_turn_of_the_assistant():
    thinking = {"type": "thinking", "thinking": "t", "signature": "x"}
    messages = read(("user", "u"), ("assistant", [thinking, *text("s"), USE]), ("user", [RESULT]))
    assert messages[1] == Message(
        role="assistant", content="s", reasoning="t", tool_calls=(READ_USE,)
    )


def test_results_come_before_what_the_user_says_with_them():
    messages = read(("assistant", [USE]), ("user", [RESULT, *text("go on")]))
    assert messages[1:] == [
        Message(role="tool", content="7", name="f", tool_call_id="t1"),
        Message(role="user", content="go on"),
    ]


@pytest.mark.parametrize(
    ("result", "content"),
    [
        ({"content": text("7", "8")}, "7\n8"),
        ({"content": None}, ""),
        ({"content": "no such file", "is_error": True}, "Error: no such file"),
        ({"content": "Error 5", "is_error": True}, "Error 5"),
    ],
)
def test_a_result_is_text_and_says_if_it_is_an_error(result, content):
    messages = read(("assistant", [USE]), ("user", [{**RESULT, **result}]))
    assert messages[-1].content == content


def test_redacted_thinking_adds_nothing():
    blocks = [{"type": "redacted_thinking", "data": "x"}, *text("s")]
    assert read(("assistant", blocks)) == [Message(role="assistant", content="s")]


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([("user", [])], r"messages\[0\] has no content"),
        ([("user", [{"type": "image"}])], r"messages\[0\].content\[0\] has no source"),
        (
            [("user", [{"type": "image", "source": {"type": "file", "file_id": "f"}}])],
            r"messages\[0\].content\[0\].source is of type 'file'",
        ),
        ([("user", [{"type": "document"}])], "'document'"),
        ([("user", [{"type": "search_result", "source": "x"}])], "'search_result'"),
        ([("user", [{"type": "image", "source": "x"}])], r"content\[0\] has no source"),
        ([("user", [USE])], "'tool_use' in a message of the user"),
        ([("assistant", [{"type": "server_tool_use"}])], "'server_tool_use'"),
        ([("user", [{"type": "text"}])], "has no text"),
        ([("user", [RESULT])], "'t1', which no tool_use before it has"),
        ([("assistant", [{**USE, "id": None}])], "has no id"),
        ([("assistant", [USE])], "a message with its tool_result must follow"),
        (
            [("assistant", [USE]), ("user", [{**RESULT, "content": [{"type": "image"}]}])],
            r"messages\[1\].content\[0\].content\[0\] has no source",
        ),
    ],
)
def test_what_cannot_be_read_is_named(messages, said):
    with pytest.raises(ApiError, match=said):
        read(*messages)
