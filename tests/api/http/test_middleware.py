"""Request ids: the client's, the body's or a new one, and always on the response."""

from __future__ import annotations

import httpx
import pytest

from server.api.http.middleware import BodyLimitMiddleware, RequestIdMiddleware, is_request_id

BODY = {"prompt": "hello"}


async def test_the_clients_id_comes_back(client):
    response = await client.post("/v1/completions", json=BODY, headers={"X-Request-Id": "abc-1"})
    assert response.headers["x-request-id"] == "abc-1"
    assert response.json()["id"] == "cmpl-abc-1"


async def test_a_body_can_name_the_request(client, engine):
    response = await client.post(
        "/v1/completions",
        json={**BODY, "request_id": "from-body"},
        headers={"X-Request-Id": "from-header"},
    )
    assert response.headers["x-request-id"] == "from-body"
    assert response.json()["id"] == "cmpl-from-body"


async def test_streams_have_ids_too(client):
    response = await client.post(
        "/v1/completions", json={**BODY, "stream": True}, headers={"X-Request-Id": "abc-1"}
    )
    assert response.headers["x-request-id"] == "abc-1"
    assert '"id":"cmpl-abc-1"' in response.text


async def test_without_one_each_request_gets_its_own(client):
    first, second = [(await client.get("/version")).headers["x-request-id"] for _ in range(2)]
    assert first != second
    assert is_request_id(first)


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "ä", "a\x7f"])
async def test_an_id_that_cannot_be_repeated_is_replaced(client, given):
    headers = [(b"x-request-id", given.encode("latin-1"))]
    response = await client.get("/version", headers=headers)
    assert response.headers["x-request-id"] != given
    assert is_request_id(response.headers["x-request-id"])


@pytest.mark.parametrize(("text", "is_one"), [("a", True), ("~!", True), ("", False), ("é", False)])
def test_what_is_an_id(text, is_one):
    assert is_request_id(text) is is_one


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
