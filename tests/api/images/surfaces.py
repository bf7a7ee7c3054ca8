"""One conversation with images in the words of every protocol, and how each is asked."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import httpx

from models.vision.image_format import ImageFormat
from server.api.images.image_reader import ImageLimits
from server.config.server_config import ServerConfig
from server.pb.antipode.v1 import generation_pb2 as pb
from tests.api.fakes import FakeEngine
from tests.api.grpc.serving import Serving, collect, serving
from tests.api.http_client import app_of
from tests.api.images.pictures import FORM, data_url
from tests.api.images.vision import vision_form, vision_tokenizer

# A role and its content: texts, and the files of images.
type Turn = tuple[str, Sequence[str | bytes]]
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"


@dataclass(frozen=True)
class Answer:
    """What a client was told: an HTTP status, and the body of it or of the error."""

    status: int
    error: str = ""
    body: Any = None


@asynccontextmanager
async def vision_serving(
    engine: FakeEngine,
    tokenizer=None,
    limits: ImageLimits | None = None,
    form: ImageFormat = FORM,
    **options: Any,
) -> AsyncIterator[Serving]:
    """Both transports over a model that reads images."""
    tokenizer = tokenizer or vision_tokenizer()
    images = {"image_format": vision_form(tokenizer, form), "image_limits": limits}
    async with serving(engine, tokenizer=tokenizer, images=images, **options) as s:
        yield s


@asynccontextmanager
async def http_client(s: Serving, config: ServerConfig | None = None):
    transport = httpx.ASGITransport(app_of(s.service, s.health, config))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def openai_messages(turns: Sequence[Turn], *, as_object: bool = True) -> list[dict]:
    def part(entry):
        if isinstance(entry, str):
            return {"type": "text", "text": entry}
        url = data_url(entry)
        if as_object:
            return {"type": "image_url", "image_url": {"url": url, "detail": "auto"}}
        return {"type": "image_url", "image_url": url}

    return [{"role": role, "content": [part(entry) for entry in parts]} for role, parts in turns]


def responses_input(turns: Sequence[Turn]) -> list[dict]:
    def part(entry, role):
        if isinstance(entry, str):
            return {"type": "output_text" if role == "assistant" else "input_text", "text": entry}
        return {"type": "input_image", "image_url": data_url(entry), "detail": "auto"}

    return [{"role": role, "content": [part(p, role) for p in parts]} for role, parts in turns]


def anthropic_body(turns: Sequence[Turn]) -> dict:
    def block(entry):
        if isinstance(entry, str):
            return {"type": "text", "text": entry}
        data = base64.b64encode(entry).decode()
        source = {"type": "base64", "media_type": "image/png", "data": data}
        return {"type": "image", "source": source}

    system = [block(entry) for role, parts in turns if role == "system" for entry in parts]
    messages = [
        {"role": role, "content": [block(entry) for entry in parts]}
        for role, parts in turns
        if role != "system"
    ]
    return {"system": system, "messages": messages}


def grpc_chat(turns: Sequence[Turn]) -> pb.Chat:
    def part(entry):
        if isinstance(entry, str):
            return pb.ContentPart(text=entry)
        return pb.ContentPart(image=pb.Image(data=entry, media_type="image/png"))

    messages = [
        pb.ChatMessage(role=role, parts=[part(entry) for entry in parts]) for role, parts in turns
    ]
    return pb.Chat(messages=messages)


async def ask_http(s: Serving, path: str, body: dict) -> Answer:
    async with http_client(s) as client:
        response = await client.post(path, json=body)
    found = response.json()
    if response.status_code == 200:
        return Answer(200, body=found)
    return Answer(response.status_code, found["error"]["message"], found)


async def ask_chat(s: Serving, turns: Sequence[Turn]) -> Answer:
    body = {"messages": openai_messages(turns), "max_tokens": 20, "seed": 1}
    return await ask_http(s, CHAT, body)


async def ask_chat_by_string(s: Serving, turns: Sequence[Turn]) -> Answer:
    messages = openai_messages(turns, as_object=False)
    return await ask_http(s, CHAT, {"messages": messages, "max_tokens": 20, "seed": 1})


async def ask_chat_as_responses(s: Serving, turns: Sequence[Turn]) -> Answer:
    """Some clients send the parts of responses to chats."""
    body = {"messages": responses_input(turns), "max_tokens": 20, "seed": 1}
    return await ask_http(s, CHAT, body)


async def ask_responses(s: Serving, turns: Sequence[Turn]) -> Answer:
    body = {"input": responses_input(turns), "max_output_tokens": 20, "seed": 1}
    return await ask_http(s, RESPONSES, body)


async def ask_anthropic(s: Serving, turns: Sequence[Turn]) -> Answer:
    return await ask_http(s, MESSAGES, anthropic_body(turns) | {"max_tokens": 20, "seed": 1})


async def ask_grpc(s: Serving, turns: Sequence[Turn]) -> Answer:
    sampling = pb.Sampling(max_tokens=20, seed=1)
    request = pb.GenerateRequest(chat=grpc_chat(turns), sampling=sampling, return_token_ids=True)
    try:
        return Answer(200, body=await collect(s.stub.Generate(request)))
    except grpc.aio.AioRpcError as error:
        status = {grpc.StatusCode.INVALID_ARGUMENT: 400}.get(error.code(), 500)
        return Answer(status, error.details())


SURFACES = {
    "chat": ask_chat,
    "chat with strings": ask_chat_by_string,
    "chat with the parts of responses": ask_chat_as_responses,
    "responses": ask_responses,
    "messages": ask_anthropic,
    "gRPC": ask_grpc,
}
