"""OpenAI's own Python library: chat, streams, parse, tools, responses, embeddings."""

from __future__ import annotations

import json

import openai
import pytest
from conftest import KEY
from forms import PAINT, QUESTION, Fruit


@pytest.fixture
def client(base_url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=base_url, api_key=KEY, max_retries=0)


def ask(**more):
    return {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 200, **more}


def test_a_chat_is_answered(client, model):
    answer = client.chat.completions.create(model=model, **ask())
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.completion_tokens > 0


def test_a_stream_joins_to_the_whole_answer(client, model):
    whole = client.chat.completions.create(model=model, **ask(temperature=0))
    chunks = client.chat.completions.create(model=model, **ask(temperature=0, stream=True))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content


def test_an_answer_parsed_into_a_type(client, model):
    answer = client.chat.completions.parse(model=model, response_format=Fruit, **ask())
    assert isinstance(answer.choices[0].message.parsed, Fruit)


def test_a_stream_parsed_into_a_type(client, model):
    with client.chat.completions.stream(model=model, response_format=Fruit, **ask()) as stream:
        final = stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Fruit)


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "paint"}}]
)
def test_a_tool_is_called_with_arguments_of_its_schema(client, model, choice):
    answer = client.chat.completions.create(
        model=model, **ask(tools=[PAINT], tool_choice=choice, parallel_tool_calls=False)
    )
    (call, *_) = answer.choices[0].message.tool_calls
    assert call.function.name == "paint"
    assert json.loads(call.function.arguments)["colour"] in ("red", "green")


def test_streamed_pieces_of_a_call_join_to_the_whole(client, model):
    with client.chat.completions.stream(
        model=model, **ask(tools=[PAINT], tool_choice="required", parallel_tool_calls=False)
    ) as stream:
        final = stream.get_final_completion()
    (call, *_) = final.choices[0].message.tool_calls
    assert json.loads(call.function.arguments)["colour"] in ("red", "green")


def test_a_conversation_goes_on_after_a_call(client, model):
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "paint", "arguments": '{"colour": "red"}'},
    }
    messages = [
        {"role": "user", "content": "Paint it."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "done"},
    ]
    answer = client.chat.completions.create(
        model=model, messages=messages, tools=[PAINT], max_tokens=8
    )
    assert answer.choices[0].finish_reason


def test_a_response_has_a_status_and_usage(client, model):
    answer = client.responses.create(model=model, input=QUESTION, max_output_tokens=20)
    assert answer.status in ("completed", "incomplete")
    assert answer.usage.output_tokens > 0


def test_a_streamed_response_ends_with_the_whole(client, model):
    with client.responses.stream(
        model=model, input=QUESTION, text_format=Fruit, max_output_tokens=200
    ) as stream:
        pieces = [e.delta for e in stream if e.type == "response.output_text.delta"]
        assert stream.get_final_response().output_text == "".join(pieces)


def test_a_response_parsed_into_a_type(client, model):
    answer = client.responses.parse(
        model=model, input=QUESTION, text_format=Fruit, max_output_tokens=200
    )
    assert isinstance(answer.output_parsed, Fruit)


def test_a_response_that_calls_a_function(client, model):
    tool = {"type": "function", "strict": True, **PAINT["function"]}
    answer = client.responses.create(
        model=model, input="Paint it.", tools=[tool], tool_choice="required", max_output_tokens=200
    )
    calls = [item for item in answer.output if item.type == "function_call"]
    assert json.loads(calls[0].arguments)["colour"] in ("red", "green")


def test_embeddings_are_of_length_one_in_the_order_of_their_texts(client, model):
    answer = client.embeddings.create(model=model, input=["one", "two"])
    assert [each.index for each in answer.data] == [0, 1]
    assert all(abs(sum(x * x for x in each.embedding) - 1) < 1e-3 for each in answer.data)


def test_an_error_is_the_librarys_own(client, model):
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        client.completions.create(model=model, prompt=[5] * 5000, max_tokens=1)
