"""POST /v1/chat/completions, by what OpenAI's reference and its users expect."""

from __future__ import annotations

import pytest

from server.api.requests.generation import GenerateRequest, Sampling
from tests.api.conversations import said
from tests.api.http.asgi import events, joined

PATH = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]


async def chat(client, **fields):
    response = await client.post(PATH, json={"messages": HELLO, **fields})
    assert response.status_code == 200, response.text
    return response.json()


async def chunks(client, **fields):
    response = await client.post(PATH, json={"messages": HELLO, "stream": True, **fields})
    assert response.status_code == 200, response.text
    *rest, done = events(response.content)
    assert done == "[DONE]"
    return rest


async def refusal(client, **fields):
    response = await client.post(PATH, json={"messages": HELLO, **fields})
    assert response.status_code == 400, response.text
    return response.json()["error"]


def prompt(engine, tokenizer) -> str:
    """What the newest request's prompt says."""
    return tokenizer.decode(engine.submitted[-1].prompt_token_ids)


async def test_the_whole_answer(client):
    answer = await chat(client, model="small", seed=7)
    assert answer.pop("id").startswith("chatcmpl-")
    assert answer.pop("created") > 1_700_000_000
    assert answer.pop("system_fingerprint").startswith("fp_")
    assert answer == {
        "object": "chat.completion",
        "model": "small",
        "model_version": "1",
        "seed": 7,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hello world", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
            }
        ],
        "usage": {
            "prompt_tokens": 20,
            "completion_tokens": 6,
            "total_tokens": 26,
            "prompt_tokens_details": {"cached_tokens": 2},
        },
    }


async def test_a_chat_answer_is_what_the_service_says(client, service):
    """The translator adds nothing: same text, tokens and log probabilities."""
    request = GenerateRequest(
        prompt=await service.render_chat(said("hello")),
        add_special_tokens=False,
        sampling=Sampling(seed=3, logprobs=1),
    )
    async with await service.start(request) as generation:
        deltas = [delta async for delta in generation]
    answer = await chat(client, seed=3, logprobs=True, top_logprobs=1, return_token_ids=True)
    (choice,) = answer["choices"]
    assert answer["prompt_token_ids"] == list(generation.prompt_token_ids)
    assert choice["message"]["content"] == "".join(delta.text for delta in deltas)
    assert choice["token_ids"] == [token_id for delta in deltas for token_id in delta.token_ids]
    entries = [entry for delta in deltas for entry in delta.logprobs]
    assert [entry["token"] for entry in choice["logprobs"]["content"]] == [
        entry.token for entry in entries
    ]


async def test_a_stream_names_the_role_then_the_text_then_the_end(client):
    parts = await chunks(client)
    deltas = [part["choices"][0]["delta"] for part in parts]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == "hello world"
    assert all("role" not in delta for delta in deltas[1:])
    assert [part["choices"][0]["finish_reason"] for part in parts[:-1]] == [None] * (len(parts) - 1)
    assert parts[-1]["choices"][0]["finish_reason"] == "stop"
    assert {part["object"] for part in parts} == {"chat.completion.chunk"}


async def test_streamed_and_whole_say_the_same(client):
    fields = {"n": 2, "seed": 1, "logprobs": True, "top_logprobs": 2, "return_token_ids": True}
    whole = await chat(client, **fields)
    parts = await chunks(client, **fields)
    assert parts[0]["prompt_token_ids"] == whole["prompt_token_ids"]
    assert all("prompt_token_ids" not in part for part in parts[1:])
    for choice in whole["choices"]:
        mine = [c for part in parts for c in part["choices"] if c["index"] == choice["index"]]
        text = "".join(part["delta"].get("content", "") for part in mine)
        assert text == choice["message"]["content"]
        token_ids = joined(part.get("token_ids", []) for part in mine)
        assert token_ids == choice["token_ids"]
        logprobs = joined(part["logprobs"]["content"] for part in mine if part["logprobs"])
        assert logprobs == choice["logprobs"]["content"]


async def test_usage_comes_last_and_alone_when_asked_for(client):
    *parts, last = await chunks(client, stream_options={"include_usage": True})
    assert all(part["usage"] is None for part in parts)
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 26)


async def test_logprobs_name_bytes_and_alternatives(client, engine, ids):
    engine.script, engine.finish_reason = [ids("é")], "length"
    (choice,) = (await chat(client, logprobs=True, top_logprobs=2))["choices"]
    first, second = choice["logprobs"]["content"]
    assert (first["token"], first["bytes"], first["logprob"]) == ("\ufffd", [0xC3], -0.5)
    assert bytes(first["bytes"] + second["bytes"]).decode() == "é"
    assert [top["logprob"] for top in first["top_logprobs"]] == [-0.5, -1.0]
    assert choice["logprobs"]["refusal"] is None


async def test_logprobs_without_alternatives(client):
    (choice,) = (await chat(client, logprobs=True))["choices"]
    assert choice["logprobs"]["content"][0]["top_logprobs"] == []


async def test_prompt_logprobs_stand_beside_the_choices(client):
    answer = await chat(client, prompt_logprobs=0)
    assert len(answer["prompt_logprobs"]) == answer["usage"]["prompt_tokens"]
    assert answer["prompt_logprobs"][0] is None


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_both_names_of_max_tokens(client, engine, name):
    await chat(client, **{name: 3})
    assert engine.submitted[0].params.max_tokens == 3


async def test_the_newer_name_of_max_tokens_wins(client, engine):
    await chat(client, max_tokens=3, max_completion_tokens=4)
    assert engine.submitted[0].params.max_tokens == 4


async def test_unset_max_tokens_is_what_the_context_still_holds(client, engine):
    await chat(client)
    assert engine.submitted[0].params.max_tokens == 256 - 20


async def test_messages_go_through_the_template(client, engine, tokenizer):
    await chat(client, messages=[{"role": "system", "content": "Be kind."}, *HELLO])
    assert prompt(engine, tokenizer) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


async def test_text_parts_are_joined(client, engine, tokenizer):
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    await chat(client, messages=[{"role": "user", "content": parts}], add_generation_prompt=False)
    assert prompt(engine, tokenizer) == "<|im_start|>user\none\ntwo<|im_end|>\n"


async def test_messages_that_are_too_long_are_named(client):
    error = await refusal(client, messages=[{"role": "user", "content": "x" * 300}])
    assert (error["param"], error["code"]) == ("messages", "context_length_exceeded")


async def test_continuing_the_final_message(client, engine, tokenizer):
    messages = [*HELLO, {"role": "assistant", "content": "Hi the"}]
    await chat(client, messages=messages, continue_final_message=True)
    assert prompt(engine, tokenizer).endswith("assistant\nHi the")
    error = await refusal(
        client, messages=messages, continue_final_message=True, add_generation_prompt=True
    )
    assert error["param"] == "continue_final_message"


CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("last", "words"),
    [
        ({"content": "Let me look.", "tool_calls": [CALL]}, "its tool calls follow its text"),
        ({"content": None, "tool_calls": [CALL]}, "its tool calls follow its text"),
        ({"content": "", "reasoning_content": "Hm."}, "it has no text"),
    ],
)
async def test_a_message_that_ends_in_no_text_cannot_be_continued(client, engine, last, words):
    messages = [*HELLO, {"role": "assistant", **last}]
    error = await refusal(client, messages=messages, continue_final_message=True)
    assert error["param"] == "messages[1]"
    assert words in error["message"]
    assert engine.submitted == []
    await chat(client, messages=messages, add_generation_prompt=False)


@pytest.mark.parametrize("name", ["prefix", "partial"])
async def test_a_last_message_that_asks_for_it_is_continued(client, engine, tokenizer, name):
    begun = {"role": "assistant", "content": "Hi the", name: True}
    await chat(client, messages=[*HELLO, begun])
    assert prompt(engine, tokenizer).endswith("assistant\nHi the")
    for messages in ([*HELLO, begun, *HELLO], [{**HELLO[0], name: True}]):
        error = await refusal(client, messages=messages)
        assert error["param"].endswith(f"].{name}")
    engine.submitted.clear()
    await chat(client, messages=[*HELLO, {**begun, name: False}, *HELLO])
    assert prompt(engine, tokenizer).endswith("<|im_start|>assistant\n")


async def test_template_options_are_taken_but_no_template(client, engine, tokenizer):
    await chat(client, chat_template_kwargs={"unused_by_this_template": True})
    error = await refusal(client, chat_template_kwargs={"chat_template": "{{ 1 }}"})
    assert "chat_template" in error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0]",
        ),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": 2}, "logprobs"),
        ({"max_completion_tokens": -2}, "max_completion_tokens"),
        ({"max_completion_tokens": 1, "max_tokens": -2}, "max_tokens"),
        ({"max_completion_tokens": 237}, "max_completion_tokens"),
    ],
)
async def test_what_is_refused(client, engine, fields, param):
    assert (await refusal(client, **fields))["param"] == param
    assert engine.submitted == []
