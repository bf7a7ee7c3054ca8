"""A server that answers every request with the same bytes, whatever they are, over HTTP or gRPC."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from antipode import AsyncClient, RetryPolicy

IMPATIENT = RetryPolicy(
    max_attempts=2, initial_backoff=0.001, max_backoff=0.001, stall_timeout=0.3, max_retry_after=0.0
)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
END = b"data: [DONE]\n\n"


def chunk(*, choice=None, **fields):
    """A good chunk with one token, except for `fields`; `...` leaves a field out."""
    choices = [without({"index": 0, "text": "a", "token_ids": [5]} | (choice or {}))]
    whole = {
        "id": "cmpl-r",
        "model": "m",
        "model_version": "1",
        "seed": 7,
        "prompt_token_ids": [1, 2],
        "choices": choices,
    }
    return without(whole | fields)


def without(fields):
    return {name: value for name, value in fields.items() if value is not ...}


def usage(**fields):
    counts = {"prompt_tokens": 2, "completion_tokens": 2}
    return {"choices": [], "usage": without(counts | fields)}


def sse(*chunks):
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)


LAST = chunk(choice={"finish_reason": "length"})


@asynccontextmanager
async def http_server(
    answer: bytes, *, is_open: bool = False, then: bytes = b""
) -> AsyncIterator[str]:
    """Its address. After the answer a connection gets `then` for ever, or stays `is_open`."""
    writers = []

    async def accept(reader, writer):
        writers.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        while then and not writer.is_closing():
            writer.write(then)
            await asyncio.sleep(0.01)
        if not is_open:
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


@asynccontextmanager
async def grpc_server(*messages: bytes, status=grpc.StatusCode.OK) -> AsyncIterator[str]:
    """Its address. The messages are bytes, so that they may be none."""

    async def generate(request, context):
        for message in messages:
            await context.write(message)
        if status is not grpc.StatusCode.OK:
            await context.abort(status, "as asked")

    server = grpc.aio.server(options=[("grpc.max_send_message_length", -1)])
    handlers = {"Generate": grpc.unary_stream_rpc_method_handler(generate)}
    generic = grpc.method_handlers_generic_handler("antipode.v1.Generation", handlers)
    server.add_generic_rpc_handlers((generic,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"grpc://127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def choices_from(address, retry=IMPATIENT, **options):
    """What a client gets from that server; no answer may take it long."""
    async with asyncio.timeout(20), AsyncClient(address, retry=retry, trust_env=False) as client:
        return await client.generate("x", **options).collect()
