"""Calls that several rules make of a server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import httpx

from tests.conformance.rules import NotApplicableError, Target

_TIMEOUT = 60.0


@asynccontextmanager
async def http(target: Target) -> AsyncIterator[httpx.AsyncClient]:
    """A client without default headers that would ask for another format."""
    options = {"timeout": _TIMEOUT, "limits": httpx.Limits(max_connections=None)}
    async with httpx.AsyncClient(
        base_url=target.http, trust_env=False, headers={"accept": ""}, **options
    ) as client:
        del client.headers["accept"]
        yield client


@asynccontextmanager
async def channel(target: Target) -> AsyncIterator[grpc.aio.Channel]:
    if not target.grpc:
        raise NotApplicableError("no gRPC address was given")
    async with grpc.aio.insecure_channel(target.grpc) as channel:
        yield channel


def completion(target: Target, **options: object) -> dict[str, object]:
    """The body of a small completion."""
    defaults = {"max_tokens": 4, "temperature": 0, "seed": 1}
    return {"model": target.model, "prompt": "Hello", **defaults, **options}


async def events(client: httpx.AsyncClient, body: dict[str, object]) -> list[bytes]:
    """The chunks of bytes of a streamed completion, as they came from the socket."""
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        answer.raise_for_status()
        return [chunk async for chunk in answer.aiter_raw()]


def data_of(chunks: list[bytes]) -> list[dict[str, object]]:
    """The JSON of a stream's events, without the end mark."""
    lines = b"".join(chunks).decode().split("\n")
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    return [json.loads(each) for each in data if each != "[DONE]"]
