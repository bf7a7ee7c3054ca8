"""Server reflection, under both of its names.

grpcio has only v1alpha. v1 has the same messages on the wire, so the same handler answers it. Only
services with known descriptors are listed, so that a client can describe every listed service.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from server.api.grpc.messages import parse_large
from server.api.grpc.status import Context, errors_as_status

_V1_NAME = "grpc.reflection.v1.ServerReflection"


def add_reflection(server: grpc.aio.Server, service_names: Iterable[str]) -> None:
    """Let clients ask `server` for the descriptors of these services and of reflection."""
    servicer = reflection.aio.ReflectionServicer([*service_names, reflection.SERVICE_NAME])

    async def answer(requests: AsyncIterable[bytes], context: Context) -> AsyncIterator[Any]:
        async with errors_as_status(context):
            async for response in servicer.ServerReflectionInfo(_parsed(requests), context):
                yield response

    handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(
        answer,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in (_V1_NAME, reflection.SERVICE_NAME):
        handlers = grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler})
        server.add_generic_rpc_handlers((handlers,))


async def _parsed(requests: AsyncIterable[bytes]) -> AsyncIterator[Any]:
    async for data in requests:
        yield await parse_large(reflection_pb2.ServerReflectionRequest, data)
