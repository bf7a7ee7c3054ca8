"""Browsers: which pages may call and what they may read; none, unless a setting says so."""

from __future__ import annotations

import httpx
import pytest

from server.api.servers.http_server import create_http_app
from server.config.server_config import ServerConfig

ORIGIN = "https://chat.example.org"
PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-lang",
}


@pytest.fixture
def browse(service, health):
    """A browser's request from a page of `origin` to a server with `cors_origins`."""

    async def request(cors_origins, method, path, *, origin=ORIGIN, **options):
        app = create_http_app(service, health, ServerConfig(cors_origins=cors_origins))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        headers = {"origin": origin, **options.pop("headers", {})}
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await client.request(method, path, headers=headers, **options)

    return request


async def test_nobody_may_call_unless_a_setting_says_so(browse):
    response = await browse("", "OPTIONS", "/v1/chat/completions", headers=PREFLIGHT)
    assert not any(name.startswith("access-control-") for name in response.headers)
    response = await browse("", "GET", "/v1/models")
    assert not any(name.startswith("access-control-") for name in response.headers)


@pytest.mark.parametrize("setting", [ORIGIN, f"http://localhost:3000, {ORIGIN}/"])
async def test_a_named_origin_may_call_with_credentials(browse, setting):
    response = await browse(setting, "OPTIONS", "/v1/chat/completions", headers=PREFLIGHT)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert response.headers["access-control-allow-credentials"] == "true"
    allowed = PREFLIGHT["access-control-request-headers"]
    assert response.headers["access-control-allow-headers"] == allowed
    assert "POST" in response.headers["access-control-allow-methods"]
    assert response.headers["x-request-id"]


async def test_any_origin_may_call_without_credentials(browse):
    response = await browse("*", "OPTIONS", "/v1/chat/completions", headers=PREFLIGHT)
    assert response.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in response.headers


async def test_another_origin_is_refused_in_the_shape_of_every_error(browse):
    response = await browse(
        ORIGIN, "OPTIONS", "/v1/models", origin="https://evil.example", headers=PREFLIGHT
    )
    assert response.status_code == 400
    assert "origin" in response.json()["error"]["message"]
    assert "access-control-allow-origin" not in response.headers
    response = await browse(ORIGIN, "GET", "/v1/models", origin="https://evil.example")
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("GET", "/v1/models", {}, 200),
        ("POST", "/v1/completions", {"json": {"prompt": "x"}}, 200),
        ("POST", "/v1/completions", {"json": {"prompt": "x", "stream": True}}, 200),
        ("POST", "/v1/completions", {"json": {"prompt": "x", "n": 0}}, 400),
        ("POST", "/v1/completions", {"content": b"{"}, 400),
        ("POST", "/v1/completions", {"headers": {"content-length": "99999999"}}, 413),
        ("POST", "/v1/completions", {"headers": {"content-encoding": "br"}}, 415),
        ("GET", "/nothing", {}, 404),
        ("GET", "/v1/completions", {}, 405),
        ("OPTIONS", "/v1/completions", {}, 204),
    ],
)
async def test_a_page_may_read_every_answer_and_its_id(browse, method, path, options, status):
    response = await browse(ORIGIN, method, path, **options)
    assert response.status_code == status
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert "x-request-id" in response.headers["access-control-expose-headers"]
    assert "retry-after" in response.headers["access-control-expose-headers"]
    assert "Origin" in response.headers["vary"]


async def test_a_fault_of_the_server_can_be_read_too(browse, service, monkeypatch):
    monkeypatch.setattr(service.models, "loaded", None)
    response = await browse(ORIGIN, "GET", "/v1/models")
    assert response.status_code == 500
    assert response.headers["access-control-allow-origin"] == ORIGIN
