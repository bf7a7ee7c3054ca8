"""Builds the gRPC server: services, limits, and connections that outlive a long prefill.

Knows the service under it only to hand it to the translator and to ask whether it is ready.
"""

from __future__ import annotations

import grpc
from grpc_health.v1 import health

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


def create_grpc_server(service: Service, config: ServerConfig) -> grpc.aio.Server:
    """A server bound to `config.grpc_port` but not started, to be used on the running event loop.

    Several processes may bind the same port. RuntimeError if it cannot be bound. Health watches
    end with the server only, so stop it with little grace once the requests in flight are done.
    """
    server = grpc.aio.server(options=_options(config))
    add_generation(server, service, config.write_timeout_seconds)
    add_health(server, lambda: service.readiness().ok, [SERVICE_NAME])
    add_reflection(server, [SERVICE_NAME, health.SERVICE_NAME])
    server.add_insecure_port(_address(config.host, config.grpc_port))
    return server


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
