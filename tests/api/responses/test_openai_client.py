"""OpenAI's own client, unchanged, against /v1/responses."""

from __future__ import annotations

import httpx
import pytest
from pydantic import BaseModel

from tests.api.speaking import CALL, SCHEMA, THOUGHT

WEATHER = {"type": "function", "name": "get_weather", "parameters": SCHEMA, "strict": True}


class City(BaseModel):
    city: str


@pytest.fixture
async def sdk(app, openai):
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport) as http_client:
        yield openai.AsyncOpenAI(
            base_url="http://server/v1", api_key="none", http_client=http_client, max_retries=0
        )


async def test_a_response_and_its_text(sdk, says):
    says("It is warm.")
    answer = await sdk.responses.create(model="small", input="hi")
    assert (answer.status, answer.output_text) == ("completed", "It is warm.")


async def test_the_clients_own_accumulation_of_a_stream(sdk, says):
    says(f"{THOUGHT}Well.\n{CALL}")
    async with sdk.responses.stream(model="small", input="hi", tools=[WEATHER]) as stream:
        pieces = [e.delta async for e in stream if e.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    assert final.output_text == "".join(pieces) == "Well."
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]
    assert final.output[2].parsed_arguments == {"city": "Oslo"}


async def test_an_answer_parsed_into_a_type(sdk, says):
    says('{"city": "Oslo"}')
    answer = await sdk.responses.parse(model="small", input="hi", text_format=City)
    assert answer.output_parsed == City(city="Oslo")


async def test_a_conversation_goes_on_with_the_items_of_an_answer(sdk, says, prompted):
    says(f"{THOUGHT}Well.\n{CALL}")
    answer = await sdk.responses.create(model="small", input="hi", tools=[WEATHER])
    call = answer.output[-1]
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "7 degrees"}
    items = [{"role": "user", "content": "hi"}, *answer.output, result]
    says("Warm.")
    again = await sdk.responses.create(model="small", input=items, tools=[WEATHER])
    assert again.output_text == "Warm."
    for piece in ("Where is Oslo?", "Well.", '"city": "Oslo"', "7 degrees"):
        assert piece in prompted()


async def test_errors_are_the_clients_own(sdk, openai):
    with pytest.raises(openai.BadRequestError, match="stores no responses"):
        await sdk.responses.create(model="small", input="hi", previous_response_id="resp_1")
    with pytest.raises(openai.NotFoundError, match="stores no responses"):
        await sdk.responses.retrieve("resp_1")


async def test_a_failure_in_mid_stream_is_raised(sdk, openai, engine, ids, monkeypatch):
    async def fail(submission, _):
        engine.emit(ids("a"))
        await engine.until_read()
        engine.emit(finish_reason="error", error="internal", message="the step failed")

    engine.script = []
    monkeypatch.setattr(engine, "_play", fail)
    stream = await sdk.responses.create(model="small", input="hi", stream=True)
    with pytest.raises(openai.APIError, match="the step failed"):
        _ = [event async for event in stream]
