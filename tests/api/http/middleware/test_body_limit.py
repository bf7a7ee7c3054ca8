"""How long a body may be."""

from __future__ import annotations

import httpx
import pytest

from server.api.http.middleware.body_limit import BodyLimitMiddleware
from server.api.http.middleware.request_id import RequestIdMiddleware


async def _answer(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize(
    ("length", "room", "is_taken"), [(10, 0, True), (11, 0, False), (15, 5, True), (16, 5, False)]
)
async def test_a_body_may_be_longer_by_the_room_for_images(length, room, is_taken):
    app = BodyLimitMiddleware(_answer, max_body_bytes=10, room_for_images=room)
    transport = httpx.ASGITransport(RequestIdMiddleware(app))
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        response = await client.post("/", content=b"x" * length)
    assert response.status_code == (200 if is_taken else 413)
