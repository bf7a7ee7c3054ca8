"""Request ids: the client's, the body's or a new one, and always on the response."""

from __future__ import annotations

import pytest

from server.api.http.middleware.request_id import is_request_id

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
