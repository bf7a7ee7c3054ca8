"""Handlers of methods: a small method's whole call, and how a service's methods are registered.

Requests arrive as bytes, so that bytes that are no message get an answer like every other fault.
They arrive as streams: of a method with one request, grpc itself would wait for ever for a message
that a client does not send, and overlook a second. Knows neither services nor what messages mean.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from operator import methodcaller
from typing import Any

import grpc
from google.protobuf.message import Message

from server.api.grpc.messages import parse_large
from server.api.grpc.peer import headers_of
from server.api.grpc.status import Context, abort, adopt_request_id
from server.api.requests.validation import invalid

type Handler = grpc.RpcMethodHandler[Any, Any]
# How a call ends: such as `errors_as_status`.
type End = Callable[[Context], AbstractAsyncContextManager[object]]

_serialized = methodcaller("SerializeToString")


def add_service(server: grpc.aio.Server, name: str, handlers: Mapping[str, Handler]) -> None:
    """Serve the methods of one service on `server`."""
    generic = grpc.method_handlers_generic_handler(name, dict(handlers))
    server.add_generic_rpc_handlers((generic,))


def small[M: Message](
    end: End,
    message_type: type[M],
    answer: Callable[[M], Awaitable[Message]],
    authorize: Callable[[Mapping[str, str]], None] | None = None,
) -> Handler:
    """A method of one short request and one response; `authorize` looks at the metadata first."""

    async def call(data: bytes, context: Context) -> Message | None:
        async with end(context):
            adopt_request_id(context)
            if authorize is not None:
                authorize(headers_of(context))
            return await answer(await parse_large(message_type, data))

    return unary(call)


def unary(call: Callable[[bytes, Context], Awaitable[Any]]) -> Handler:
    """One request, one response."""

    async def answer(requests: AsyncIterable[bytes], context: Context) -> Any:
        return await call(await _only(requests, context), context)

    return grpc.stream_unary_rpc_method_handler(answer, response_serializer=_serialized)


def streaming(call: Callable[[bytes, Context], Awaitable[None]]) -> Handler:
    """One request, a stream of responses that `call` writes."""

    async def write(requests: AsyncIterable[bytes], context: Context) -> None:
        await call(await _only(requests, context), context)

    return grpc.stream_stream_rpc_method_handler(write, response_serializer=_serialized)


def bidirectional(call: Callable[..., Any]) -> Handler:
    """A stream of requests, a stream of responses."""
    return grpc.stream_stream_rpc_method_handler(call, response_serializer=_serialized)


async def _only(requests: AsyncIterable[bytes], context: Context) -> bytes:
    """The one request of a call. Ends the call (invalid request) for none, or for more."""
    found = None
    async for data in requests:
        if found is not None:
            await abort(context, invalid("this method takes one request, and more came"))
        found = data
    if found is None:
        await abort(context, invalid("this method takes one request, and none came"))
    return found
