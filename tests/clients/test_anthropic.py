"""Anthropic's own Python library: messages, streams, tools, counting."""

from __future__ import annotations

import anthropic
import pytest
from conftest import KEY
from forms import PAINT, QUESTION

TOOL = {
    "name": "paint",
    "description": "Paint the wall.",
    "input_schema": PAINT["function"]["parameters"],
}
# A small model calls again and again.
ANY = {"type": "any", "disable_parallel_tool_use": True}
MESSAGES = [{"role": "user", "content": QUESTION}]


@pytest.fixture
def client(server: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=server, api_key=KEY, max_retries=0)


def test_a_message_is_answered(client, model):
    answer = client.messages.create(
        model=model, max_tokens=20, system="Answer briefly.", messages=MESSAGES
    )
    assert answer.content[0].type == "text"
    assert answer.stop_reason in ("end_turn", "max_tokens")
    assert answer.usage.output_tokens > 0


def test_a_streamed_message_joins_to_the_whole(client, model):
    with client.messages.stream(model=model, max_tokens=20, messages=MESSAGES) as stream:
        text = "".join(stream.text_stream)
        assert stream.get_final_text() == text


@pytest.mark.parametrize("choice", [ANY, {"type": "tool", "name": "paint"}])
def test_a_tool_is_used_with_input_of_its_schema(client, model, choice):
    answer = client.messages.create(
        model=model, max_tokens=200, messages=MESSAGES, tools=[TOOL], tool_choice=choice
    )
    used = [block for block in answer.content if block.type == "tool_use"]
    assert used[0].input["colour"] in ("red", "green")
    assert answer.stop_reason == "tool_use"


def test_a_streamed_tool_use_joins_to_its_input(client, model):
    with client.messages.stream(
        model=model, max_tokens=200, messages=MESSAGES, tools=[TOOL], tool_choice=ANY
    ) as stream:
        final = stream.get_final_message()
    used = [block for block in final.content if block.type == "tool_use"]
    assert used[0].input["colour"] in ("red", "green")


def test_a_conversation_goes_on_after_a_tool_was_used(client, model):
    messages = [
        *MESSAGES,
        {
            "role": "assistant",
            "content": [
                {"type": "tool_use", "id": "toolu_1", "name": "paint", "input": {"colour": "red"}}
            ],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "done"}],
        },
    ]
    answer = client.messages.create(model=model, max_tokens=8, messages=messages, tools=[TOOL])
    assert answer.stop_reason


def test_tokens_are_counted_as_a_message_uses_them(client, model):
    counted = client.messages.count_tokens(model=model, messages=MESSAGES).input_tokens
    answer = client.messages.create(model=model, max_tokens=1, messages=MESSAGES)
    assert counted == answer.usage.input_tokens


def test_an_error_is_the_librarys_own(client, model):
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        client.messages.create(model=model, max_tokens=0, messages=MESSAGES)
