"""A real server on a loopback port, over the real service and an engine that follows a script."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import grpc
import pytest

from server.api.access.gatekeeper import Gatekeeper
from server.api.generation_service import GenerationService
from server.api.grpc.lifetime import GrpcServer
from server.api.health import Health
from server.api.servers.grpc_server import create_grpc_server
from server.api.tokenizers.tokenizer import Tokenizer
from server.config.server_config import ServerConfig
from server.files.tls_files import tls_files
from server.lifecycle import Lifecycle
from server.pb.antipode.v1 import generation_pb2 as pb
from server.pb.antipode.v1.generation_pb2_grpc import GenerationStub
from tests.api.fakes import FakeEngine, make_health, make_service, small_pretrained


@dataclass(frozen=True)
class Serving:
    """What a test may touch: both ends, and what lies between them."""

    channel: grpc.aio.Channel
    stub: GenerationStub
    engine: FakeEngine
    lifecycle: Lifecycle
    tokenizer: Tokenizer
    address: str
    server: GrpcServer
    service: GenerationService
    health: Health


@contextmanager
def reserved_port():
    """A free port, kept from others; the server binds it beside us."""
    with socket.socket() as reserving:
        reserving.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserving.bind(("127.0.0.1", 0))
        yield reserving.getsockname()[1]


@asynccontextmanager
async def serving(
    engine: FakeEngine,
    *,
    channel_options: tuple = (),
    gatekeeper: Gatekeeper | None = None,
    credentials: grpc.ChannelCredentials | None = None,
    tokenizer: Tokenizer | None = None,
    images: Mapping[str, object] | None = None,
    room_for_images: int = 0,
    **settings: object,
) -> AsyncIterator[Serving]:
    tokenizer, lifecycle = tokenizer or _small_tokenizer(), Lifecycle()
    lifecycle.mark_ready()
    service = make_service(engine, tokenizer, lifecycle, **(images or {}))
    health = make_health(engine, lifecycle)
    with reserved_port() as port:
        config = ServerConfig(host="127.0.0.1", grpc_port=port, **settings)
        server = create_grpc_server(
            *(service, health, config),
            gatekeeper=gatekeeper,
            tls=tls_files(config),
            room_for_images=room_for_images,
        )
        await server.start()
        address = f"127.0.0.1:{port}"
        try:
            async with _channel(address, channel_options, credentials) as channel:
                stub = GenerationStub(channel)
                yield Serving(
                    channel, stub, engine, lifecycle, tokenizer, address, server, service, health
                )
        finally:
            await server.stop(0)


def _channel(
    address: str, options: tuple, credentials: grpc.ChannelCredentials | None
) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, credentials, options=options)


async def collect(call) -> list[pb.GenerateResponse]:
    """What is left of a stream; unlike iterating, this may follow other reads."""
    responses = []
    while (response := await call.read()) is not grpc.aio.EOF:
        responses.append(response)
    return responses


def text_of(responses: list[pb.GenerateResponse], index: int = 0) -> str:
    return "".join(response.text for response in responses if response.index == index)


def token_ids_of(responses: list[pb.GenerateResponse], index: int = 0) -> list[int]:
    return [
        token_id
        for response in responses
        if response.index == index
        for token_id in response.token_ids
    ]


async def until(condition) -> None:
    """Wait until `condition()` holds, which must be soon."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def failure(call) -> grpc.aio.AioRpcError:
    """The error a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await (collect(call) if hasattr(call, "read") else call)
    return error.value


def ids(text: str) -> list[int]:
    """The small tokenizer's ids of `text`."""
    return _small_tokenizer().encode(text)


@functools.cache
def _small_tokenizer() -> Tokenizer:
    return Tokenizer(small_pretrained())
