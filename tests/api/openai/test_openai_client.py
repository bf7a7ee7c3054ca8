"""The official client, unchanged, against the application."""

from __future__ import annotations

import httpx
import pytest


@pytest.fixture
async def sdk(app, openai):
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport) as http_client:
        yield openai.AsyncOpenAI(
            base_url="http://server/v1", api_key="none", http_client=http_client, max_retries=0
        )


HELLO = [{"role": "user", "content": "hello"}]


async def test_the_client_lists_and_retrieves_models(sdk):
    models = [model async for model in sdk.models.list()]
    assert [model.id for model in models] == ["small"]
    assert (await sdk.models.retrieve("small")).owned_by == "antipode"


async def test_the_client_reads_a_chat(sdk):
    answer = await sdk.chat.completions.create(model="small", messages=HELLO, logprobs=True)
    (choice,) = answer.choices
    assert choice.message.content == "hello world"
    assert choice.finish_reason == "stop"
    assert choice.logprobs.content[0].token == "hello"
    assert answer.usage.prompt_tokens_details.cached_tokens == 2


async def test_a_streamed_chat(sdk):
    stream = await sdk.chat.completions.create(
        model="small", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices)
    assert text == "hello world"
    assert chunks[-1].usage.completion_tokens == 6


async def test_the_clients_own_accumulation_of_a_stream(sdk):
    async with sdk.chat.completions.stream(model="small", messages=HELLO) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == "hello world"
    assert final.choices[0].message.role == "assistant"


async def test_the_client_reads_completions(sdk):
    answer = await sdk.completions.create(model="small", prompt=["a", "b"], n=2, logprobs=1)
    assert [choice.text for choice in answer.choices] == ["hello world"] * 4
    assert answer.choices[0].logprobs.tokens[0] == "hello"


async def test_a_streamed_completion(sdk):
    stream = await sdk.completions.create(model="small", prompt="a", stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == "hello world"


async def test_extensions_go_through_extra_body(sdk, engine):
    answer = await sdk.completions.create(
        model="small", prompt="a", extra_body={"top_k": 5, "return_token_ids": True}
    )
    assert engine.submitted[0].params.top_k == 5
    assert answer.choices[0].token_ids[-1] == 262
    assert answer.model_extra["model_version"] == "1"


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"model": "other"}, "NotFoundError"),
        ({"temperature": 3}, "BadRequestError"),
    ],
)
async def test_errors_are_the_clients_own(sdk, openai, fields, error):
    with pytest.raises(getattr(openai, error)) as caught:
        await sdk.completions.create(**{"model": "small", "prompt": "a", **fields})
    assert caught.value.type in ("not_found_error", "invalid_request_error")
    assert caught.value.param == next(iter(fields))


async def test_a_full_queue_is_a_rate_limit(sdk, openai, engine, monkeypatch):
    async def refuse(submission, _):
        engine.emit(finish_reason="error", error="queue_full", message="try again")

    monkeypatch.setattr(engine, "_play", refuse)
    with pytest.raises(openai.RateLimitError):
        await sdk.completions.create(model="small", prompt="a")


async def test_an_error_in_mid_stream_is_raised(sdk, openai, engine, ids, monkeypatch):
    async def fail(submission, _):
        engine.emit(ids("a"))
        await engine.until_read()
        engine.emit(finish_reason="error", error="internal", message="the step failed")

    monkeypatch.setattr(engine, "_play", fail)
    stream = await sdk.completions.create(model="small", prompt="a", stream=True)
    with pytest.raises(openai.APIError, match="the step failed"):
        _ = [chunk async for chunk in stream]


async def test_the_client_reads_embeddings_in_its_own_format_and_as_numbers(sdk, ids):
    """By default the client asks for base64."""
    texts = ["hello", "world"]
    ours = await sdk.embeddings.create(model="small", input=texts)
    numbers = await sdk.embeddings.create(model="small", input=texts, encoding_format="float")
    assert [entry.index for entry in ours.data] == [0, 1]
    assert len(ours.data[0].embedding) == 4
    for entry, same in zip(ours.data, numbers.data, strict=True):
        assert entry.embedding == pytest.approx(same.embedding)
    assert ours.usage.prompt_tokens == len(ids("hello")) + len(ids("world"))
