"""Builds the gRPC server: services, limits, and connections that outlive a long prefill.

Knows the service under it only to hand it to the translator and to ask whether it is ready.
"""

from __future__ import annotations

import asyncio

import grpc
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from server.api.grpc.generation import SERVICE_NAME, add_generation
from server.api.grpc.health import add_health
from server.api.grpc.reflection import add_reflection
from server.api.service import Service
from server.config import ServerConfig

# A peer that vanished without a word is noticed within the sum of both.
KEEPALIVE_TIME_MS = 60_000
KEEPALIVE_TIMEOUT_MS = 20_000

# A client may ping as often as this while it waits for the first token of a long prompt; with
# grpc's own limit of five minutes the server would close the connection for "too many pings".
MIN_PING_INTERVAL_MS = 10_000


# Longer than any drain: `stop` is what ends the wait.
_UNTIL_STOPPED_SECONDS = 86_400.0


class GrpcServer:
    """A bound server, not started. Belongs to the event loop it is created in."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server
        self._refusal: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._server.start()

    def stop_accepting(self) -> None:
        """Close the port and send clients elsewhere (GOAWAY); calls that run go on until `stop`."""
        self._refusal = asyncio.create_task(self._server.stop(_UNTIL_STOPPED_SECONDS))

    async def stop(self, grace: float) -> None:
        """End every call within `grace` seconds, which health watches always take."""
        if self._refusal is not None:
            self._refusal.cancel()
            await asyncio.wait([self._refusal])
        await self._server.stop(grace)


def create_grpc_server(service: Service, config: ServerConfig) -> GrpcServer:
    """A server on `config.grpc_port`, which others may share; RuntimeError if it is taken."""
    server = grpc.aio.server(options=_options(config))
    names = [SERVICE_NAME, health.SERVICE_NAME]
    add_generation(server, service, config.write_timeout_seconds)
    add_health(server, lambda: service.readiness().ok, [*names, reflection.SERVICE_NAME])
    add_reflection(server, names)
    server.add_insecure_port(_address(config.host, config.grpc_port))
    return GrpcServer(server)


def _options(config: ServerConfig) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", config.max_body_bytes),
        ("grpc.max_send_message_length", config.max_body_bytes),
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
        ("grpc.http2.max_ping_strikes", 0),
    ]


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
