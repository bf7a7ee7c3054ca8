"""The gRPC servers: the services of each, their limits, and connections that survive long prefills.

Knows service and health only to pass them to the translators.
"""

from __future__ import annotations

import grpc
from grpc_health.v1 import health as grpc_health
from grpc_reflection.v1alpha import reflection

from server.api.access.gatekeeper import Gatekeeper
from server.api.antipode_v1 import versions
from server.api.antipode_v1.generation import SERVICE_NAME, add_generation
from server.api.generation_service import GenerationService
from server.api.grpc.access import CallInterceptor
from server.api.grpc.credentials import add_port
from server.api.grpc.health import add_health
from server.api.grpc.lifetime import GrpcServer
from server.api.grpc.reflection import add_reflection
from server.api.health import Health
from server.api.open_files import most_open_files
from server.api.open_inference import servicer as open_inference
from server.api.open_inference.repository import Repository
from server.api.orca import servicer as orca
from server.api.version_admin import VersionAdmin
from server.api.vllm_engine import servicer as vllm_engine
from server.config.server_config import ServerConfig
from server.files.tls_files import TlsMaterial
from server.files.watched_files import WatchedFiles
from server.ports import address, host_of

# A peer that disappeared silently is noticed within the sum of both times.
KEEPALIVE_TIME_MS = 60_000
KEEPALIVE_TIMEOUT_MS = 20_000

# The shortest interval at which a client may ping while it waits for the first token of a long
# prompt. With grpc's own limit of five minutes, the server would close the connection for "too many
# pings".
MIN_PING_INTERVAL_MS = 10_000


_SERVICES = (
    SERVICE_NAME,
    open_inference.SERVICE_NAME,
    vllm_engine.SERVICE_NAME,
    orca.SERVICE_NAME,
    grpc_health.SERVICE_NAME,
)


def create_grpc_server(
    service: GenerationService,
    health: Health,
    config: ServerConfig,
    admin: VersionAdmin | None = None,
    *,
    gatekeeper: Gatekeeper | None = None,
    tls: WatchedFiles[TlsMaterial] | None = None,
    room_for_images: int = 0,
) -> GrpcServer:
    """A server on `config.grpc_port`, which processes may share. RuntimeError if it is taken.

    `room_for_images` is how many bytes longer than the configuration's a message may be.
    """
    interceptors = [CallInterceptor(gatekeeper or Gatekeeper())]
    options = _options(config, config.max_body_bytes + room_for_images)
    server = grpc.aio.server(options=options, interceptors=interceptors)
    timeout = config.write_timeout_seconds
    add_generation(server, service, health.loads, timeout)
    open_inference.add_open_inference(server, service, health, Repository(admin), timeout)
    vllm_engine.add_vllm_engine(server, service, health, timeout)
    orca.add_orca(server, health.loads, config.load_report_min_interval_seconds)
    checked = [*_SERVICES, reflection.SERVICE_NAME, vllm_engine.HEALTH_NAME]
    add_health(server, lambda: health.readiness().ok, checked)
    add_reflection(server, _SERVICES)
    add_port(server, address(host_of(config), config.grpc_port), tls)
    return GrpcServer(server)


def create_versions_server(
    admin: VersionAdmin,
    config: ServerConfig,
    *,
    gatekeeper: Gatekeeper | None = None,
    tls: WatchedFiles[TlsMaterial] | None = None,
) -> GrpcServer:
    """A server on the admin port, which processes may share. RuntimeError if it is taken.

    `admin` checks the token; `gatekeeper`, which must know no API keys, records calls.
    """
    interceptors = [CallInterceptor(gatekeeper or Gatekeeper())]
    server = grpc.aio.server(options=_admin_options(config), interceptors=interceptors)
    versions.add_versions(server, admin)
    add_reflection(server, [versions.SERVICE_NAME, reflection.SERVICE_NAME])
    add_port(server, address(config.admin_host, config.admin_grpc_port), tls)
    return GrpcServer(server)


def max_connections(config: ServerConfig) -> int:
    """Beyond it, gRPC closes new connections before their first byte."""
    return min(config.max_connections, most_open_files() // 4)


def _admin_options(config: ServerConfig) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 1),
        ("grpc.server_handshake_timeout_ms", int(config.head_timeout_seconds * 1000)),
    ]


def _options(config: ServerConfig, max_message_bytes: int) -> list[tuple[str, int]]:
    return [
        *_admin_options(config),
        ("grpc.max_allowed_incoming_connections", max_connections(config)),
        ("grpc.max_receive_message_length", max_message_bytes),
        # Log probabilities of a long prompt are longer than any request.
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
        ("grpc.http2.max_ping_strikes", 0),
    ]
