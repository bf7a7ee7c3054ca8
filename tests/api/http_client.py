"""The HTTP application and a client of it, in process and without a port: fixtures of tests/api.

An application takes ten times as long to make as to answer, and keeps nothing between requests. So
there is one per session, which asks the service and the health of the test under way.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp

from server.api.health import Health
from server.api.servers.http_server import create_http_app
from server.api.service import Service
from server.config import ServerConfig

MAX_BODY_BYTES = 20_000


class Standin:
    """Stands in an application's closures for a part of the test under way."""

    def __init__(self, part: Callable[[], object]) -> None:
        self._part = part

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part(), name)


under_way = SimpleNamespace()


@cache
def shared_app() -> ASGIApp:
    service: Any = Standin(lambda: under_way.service)
    # What the application takes from the service when it is made.
    service.embedder = Standin(lambda: under_way.service.embedder)
    service.models = Standin(lambda: under_way.service.models)
    health: Any = Standin(lambda: under_way.health)
    config = ServerConfig(max_body_bytes=MAX_BODY_BYTES, write_timeout_seconds=0.05)
    return create_http_app(service, health, config)


@pytest.fixture
def app(service: Service, health: Health) -> ASGIApp:
    under_way.service, under_way.health = service, health
    return shared_app()


@pytest.fixture
async def client(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        yield client
