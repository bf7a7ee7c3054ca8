"""Clients that read a stream to its end and say how it ended."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field

import httpx


@dataclass
class Stream:
    """What one client got: an HTTP status, text, and how it ended."""

    status: int = 0
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    error: str | None = None
    is_done: bool = False
    is_broken: bool = False
    started: asyncio.Event = field(default_factory=asyncio.Event)


def client(server) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(base_url=server.http, timeout=60, limits=limits, trust_env=False)


def body(max_tokens, prompt="some prompt", **options):
    return {
        "model": "toy",
        "prompt": prompt,
        "max_tokens": max_tokens,
        "stream": True,
        "ignore_eos": True,
        "return_token_ids": True,
        "seed": 7,
        **options,
    }


async def read_stream(http: httpx.AsyncClient, stream: Stream, **request) -> Stream:
    """Read a completion stream; a connection that breaks is noted, not raised."""
    try:
        async with http.stream("POST", "/v1/completions", json=body(**request)) as response:
            stream.status = response.status_code
            if response.status_code != 200:
                stream.error = json.loads(await response.aread())["error"]["message"]
                return stream
            async for line in response.aiter_lines():
                _take(stream, line)
    except httpx.TransportError:
        stream.is_broken = True
    finally:
        stream.started.set()
    return stream


def _take(stream: Stream, line: str) -> None:
    if not line.startswith("data: "):
        return
    if line == "data: [DONE]":
        stream.is_done = True
        return
    event = json.loads(line.removeprefix("data: "))
    if "error" in event:
        stream.error = event["error"]["message"]
        return
    for choice in event["choices"]:
        stream.token_ids += choice.get("token_ids") or []
        stream.finish_reason = choice["finish_reason"] or stream.finish_reason
    stream.started.set()


async def start_streams(
    http: httpx.AsyncClient, count: int, num_started: int | None = None, **request
):
    """Start streams and wait until all (or that many) have tokens: [(stream, task)]."""
    streams = [Stream() for _ in range(count)]
    tasks = [
        asyncio.create_task(read_stream(http, stream, **({"prompt": f"prompt {number}"} | request)))
        for number, stream in enumerate(streams)
    ]
    for stream in streams[:num_started]:
        await asyncio.wait_for(stream.started.wait(), 60)
    return list(zip(streams, tasks, strict=True))
