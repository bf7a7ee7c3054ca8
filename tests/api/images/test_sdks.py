"""The official clients, unchanged, with their own forms of images."""

from __future__ import annotations

import base64
from contextlib import asynccontextmanager

import httpx
import httpx2

from tests.api.fakes import FakeEngine
from tests.api.http_client import app_of
from tests.api.images.pictures import data_url, png
from tests.api.images.surfaces import vision_serving
from tests.api.images.vision import vision_engine

A = png()
URL = "http://server"


def answering() -> FakeEngine:
    return vision_engine([[72], [*FakeEngine.EOS]])


@asynccontextmanager
async def openai_sdk(openai, engine):
    async with vision_serving(engine) as s:
        transport = httpx.ASGITransport(app_of(s.service, s.health))
        async with httpx.AsyncClient(transport=transport) as client:
            yield openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="none", http_client=client)


@asynccontextmanager
async def anthropic_sdk(anthropic, engine):
    async with vision_serving(engine) as s:
        transport = httpx2.ASGITransport(app_of(s.service, s.health))
        async with httpx2.AsyncClient(transport=transport) as client:
            yield anthropic.AsyncAnthropic(base_url=URL, api_key="none", http_client=client)


async def test_openais_client_sends_images_to_chats_and_responses(openai):
    engine = answering()
    image = {"type": "image_url", "image_url": {"url": data_url(A), "detail": "high"}}
    chat = [{"role": "user", "content": [{"type": "text", "text": "What?"}, image]}]
    item = {"type": "input_image", "image_url": data_url(A), "detail": "auto"}
    given = [{"role": "user", "content": [{"type": "input_text", "text": "What?"}, item]}]
    async with openai_sdk(openai, engine) as sdk:
        await sdk.chat.completions.create(model="small", messages=chat)
        await sdk.responses.create(model="small", input=given)
    first, second = engine.submitted
    assert len(first.images) == 1
    assert (first.prompt_token_ids, first.images) == (second.prompt_token_ids, second.images)


async def test_anthropics_client_sends_images_and_counts_their_tokens(anthropic):
    engine = answering()
    data = base64.b64encode(A).decode()
    source = {"type": "base64", "media_type": "image/png", "data": data}
    image = {"type": "image", "source": source, "cache_control": {"type": "ephemeral"}}
    messages = [{"role": "user", "content": [image, {"type": "text", "text": "What?"}]}]
    async with anthropic_sdk(anthropic, engine) as sdk:
        answer = await sdk.messages.create(model="small", max_tokens=20, messages=messages)
        counted = await sdk.messages.count_tokens(model="small", messages=messages)
    assert len(engine.submitted[0].images) == 1
    assert counted.input_tokens == answer.usage.input_tokens
