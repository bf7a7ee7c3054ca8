"""One HTTP port: uvicorn's server around an application, with the limits of its connections.

Knows no application: the API's port and the admin port are both of this kind.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

import uvicorn
from starlette.types import ASGIApp

from server.api.http.connections.connection import ConnectionLimits, HttpConnection
from server.api.http.connections.crowd import Crowd
from server.config import ServerConfig

# Google's load balancers keep idle connections for 600 s; the server must not close them earlier.
_KEEP_ALIVE_SECONDS = 620


class HttpPort(uvicorn.Server):
    """uvicorn without its own handling of signals."""

    def __init__(self, app: ASGIApp, config: ServerConfig, *, flush_seconds: float) -> None:
        super().__init__(_uvicorn_config(app, config, flush_seconds))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def close_idle_connections(self) -> None:
        """Close kept-alive connections; one in use is closed after its response."""
        for connection in list(self.server_state.connections):
            connection.shutdown()


def _uvicorn_config(app: ASGIApp, config: ServerConfig, flush_seconds: float) -> uvicorn.Config:
    limits = ConnectionLimits(
        head_timeout=config.head_timeout_seconds,
        body_timeout=config.body_timeout_seconds,
        max_header_bytes=config.max_header_bytes,
    )
    connection = partial(HttpConnection, limits=limits, crowd=Crowd(config.max_connections))
    return uvicorn.Config(
        app,
        http=connection,  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(flush_seconds),
    )
