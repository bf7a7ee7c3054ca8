"""One HTTP port: uvicorn's server around an application, with the limits of its connections.

Knows no application: the API's port and the admin port are both of this kind.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from server.api.http.connections.connection import HttpConnection
from server.api.http.connections.limits import KEEP_ALIVE_SECONDS, ConnectionLimits
from server.api.http.connections.open_connections import OpenConnections
from server.api.http.connections.tls_front import TlsFront
from server.config.cors_origins import read_origins
from server.config.server_config import ServerConfig
from server.files.tls_files import TlsMaterial
from server.files.watched_files import WatchedFiles


class HttpPort(uvicorn.Server):
    """uvicorn without its own handling of signals, and with TLS if `tls` is given.

    `cors_origins` is the setting: whose pages may read what the port refuses by itself.
    `max_body_bytes` is the application's bound where it is not the configuration's.
    """

    def __init__(
        self,
        app: ASGIApp,
        config: ServerConfig,
        *,
        flush_seconds: float,
        cors_origins: str = "",
        max_body_bytes: int | None = None,
        tls: WatchedFiles[TlsMaterial] | None = None,
    ) -> None:
        limits = ConnectionLimits(
            head_timeout=config.head_timeout_seconds,
            body_timeout=config.body_timeout_seconds,
            max_header_bytes=config.max_header_bytes,
            max_body_bytes=max_body_bytes or config.max_body_bytes,
            cors_origins=tuple(read_origins(cors_origins)),
        )
        protocol = _protocol(limits, OpenConnections(config.max_connections), tls)
        super().__init__(_uvicorn_config(app, protocol, flush_seconds))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def close_idle_connections(self) -> None:
        """Close kept-alive connections; one in use is closed after its response."""
        for connection in list(self.server_state.connections):
            cast(HttpConnection, connection).retire()


def _uvicorn_config(
    app: ASGIApp, protocol: Callable[..., asyncio.Protocol], flush_seconds: float
) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=protocol,  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(flush_seconds),
    )


def _protocol(
    limits: ConnectionLimits,
    connections: OpenConnections,
    tls: WatchedFiles[TlsMaterial] | None,
) -> Callable[..., asyncio.Protocol]:
    """What uvicorn makes for each connection, with the arguments that it gives."""
    connection = partial(HttpConnection, limits=limits, connections=connections)
    if tls is None:
        return connection

    def secured(**uvicorn: Any) -> TlsFront:
        inside = partial(connection, **uvicorn)
        return TlsFront(lambda: tls.current().context, inside, connections, limits.head_timeout)

    return secured
