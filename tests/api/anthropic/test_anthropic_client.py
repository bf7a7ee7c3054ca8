"""Anthropic's own client, unchanged, against /v1/messages."""

from __future__ import annotations

import httpx2
import pytest
from pydantic import BaseModel

from tests.api.speaking import CALL, SCHEMA, THOUGHT

WEATHER = {"name": "get_weather", "description": "d", "input_schema": SCHEMA}
HELLO = [{"role": "user", "content": "hi"}]


class City(BaseModel):
    city: str


@pytest.fixture
async def sdk(app, anthropic):
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport) as http_client:
        yield anthropic.AsyncAnthropic(
            base_url="http://server", api_key="none", http_client=http_client, max_retries=0
        )


async def test_a_message_and_its_usage(sdk, says):
    says("It is warm.")
    answer = await sdk.messages.create(model="small", max_tokens=50, messages=HELLO)
    assert answer.content[0].text == "It is warm."
    assert answer.stop_reason == "end_turn"
    assert answer._request_id == answer.id.removeprefix("msg_")
    counted = await sdk.messages.count_tokens(model="small", messages=HELLO)
    assert counted.input_tokens == answer.usage.input_tokens


async def test_the_clients_own_accumulation_of_a_stream(sdk, says):
    says(f"{THOUGHT}Well.\n{CALL}")
    async with sdk.messages.stream(
        model="small", max_tokens=200, messages=HELLO, tools=[WEATHER]
    ) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        final = await stream.get_final_message()
    thinking, said, use = final.content
    assert thinking.thinking == "Where is Oslo?"
    assert thinking.signature
    assert said.text == text == "Well."
    assert use.input == {"city": "Oslo"}
    assert final.stop_reason == "tool_use"


async def test_an_answer_parsed_into_a_type(sdk, says):
    says('{"city": "Oslo"}')
    answer = await sdk.messages.parse(
        model="small", max_tokens=50, messages=HELLO, output_format=City
    )
    assert answer.parsed_output == City(city="Oslo")


async def test_a_conversation_goes_on_with_the_blocks_of_an_answer(sdk, says, prompted):
    says(f"{THOUGHT}Well.\n{CALL}")
    asked = {"model": "small", "max_tokens": 200, "tools": [WEATHER]}
    answer = await sdk.messages.create(messages=HELLO, **asked)
    result = {"type": "tool_result", "tool_use_id": answer.content[-1].id, "content": "7 degrees"}
    said = {"role": "assistant", "content": answer.content}
    says("Warm.")
    again = await sdk.messages.create(
        messages=[*HELLO, said, {"role": "user", "content": [result]}], **asked
    )
    assert again.content[0].text == "Warm."
    for piece in ("Where is Oslo?", "Well.", '"city": "Oslo"', "7 degrees"):
        assert piece in prompted()


async def test_errors_are_the_clients_own(sdk, anthropic):
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        await sdk.messages.create(model="small", max_tokens=0, messages=HELLO)
    with pytest.raises(anthropic.NotFoundError, match="'other'"):
        await sdk.messages.create(model="other", max_tokens=1, messages=HELLO)


async def test_a_failure_in_mid_stream_is_raised(sdk, anthropic, engine, ids, monkeypatch):
    async def fail(submission, _):
        engine.emit(ids("a"))
        await engine.until_read()
        engine.emit(finish_reason="error", error="internal", message="the step failed")

    engine.script = []
    monkeypatch.setattr(engine, "_play", fail)
    stream = await sdk.messages.create(model="small", max_tokens=9, messages=HELLO, stream=True)
    with pytest.raises(anthropic.APIStatusError, match="the step failed"):
        _ = [event async for event in stream]
