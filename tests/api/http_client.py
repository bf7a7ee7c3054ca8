"""The HTTP application and a client of it, in process and without a port: fixtures of tests/api.

An application takes ten times as long to make as to answer, and keeps nothing between requests. So
one is made per configuration, and asks the service and the health that a request came to.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from server.api.generation_service import GenerationService
from server.api.health import Health
from server.api.servers.http_server import create_http_app
from server.config.server_config import ServerConfig

MAX_BODY_BYTES = 20_000


@dataclass(frozen=True)
class Parts:
    """What an application is over."""

    service: GenerationService
    health: Health


_asked: ContextVar[Parts] = ContextVar("asked")


class Forwarder:
    """In a shared application: asks a part of what the request came to."""

    def __init__(self, part: Callable[[Parts], object]) -> None:
        self._part = part

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part(_asked.get()), name)


@cache
def _shared_app(config: ServerConfig) -> ASGIApp:
    service: Any = Forwarder(lambda parts: parts.service)
    # What the application takes from the service when it is made.
    service.embedder = Forwarder(lambda parts: parts.service.embedder)
    service.models = Forwarder(lambda parts: parts.service.models)
    service.exemplars = Forwarder(lambda parts: parts.service.exemplars)
    health: Any = Forwarder(lambda parts: parts.health)
    health.loads = Forwarder(lambda parts: parts.health.loads)
    return create_http_app(service, health, config)


def app_of(
    service: GenerationService, health: Health, config: ServerConfig | None = None
) -> ASGIApp:
    """An application over them."""
    parts, shared = Parts(service, health), _shared_app(config or ServerConfig())

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        _asked.set(parts)
        await shared(scope, receive, send)

    return app


@pytest.fixture
def app(service: GenerationService, health: Health) -> ASGIApp:
    config = ServerConfig(max_body_bytes=MAX_BODY_BYTES, write_timeout_seconds=0.05)
    return app_of(service, health, config)


@pytest.fixture
async def client(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        yield client
