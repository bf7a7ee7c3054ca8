"""The HTTP application and a client of it, in process and without a port: fixtures of tests/api."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.types import ASGIApp

from server.api.health import Health
from server.api.servers.http_server import create_http_app
from server.api.service import Service
from server.config import ServerConfig

MAX_BODY_BYTES = 20_000


@pytest.fixture
def app(service: Service, health: Health) -> ASGIApp:
    config = ServerConfig(max_body_bytes=MAX_BODY_BYTES, write_timeout_seconds=0.05)
    return create_http_app(service, health, config)


@pytest.fixture
async def client(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        yield client
