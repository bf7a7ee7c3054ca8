"""Every error on Anthropic's paths has Anthropic's shape, whoever refuses the request."""

from __future__ import annotations

import pytest

from tests.api.http_client import MAX_BODY_BYTES

PATH = "/v1/messages"
ASKED = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}


def checked(response, status: int, kind: str) -> str:
    """The message of an error that has the shape, the type and the id."""
    body = response.json()
    assert response.status_code == status
    assert body["type"] == "error"
    assert body["error"]["type"] == kind
    assert set(body) == {"type", "error", "request_id"}
    assert body["request_id"] == response.headers["request-id"]
    assert response.headers["content-length"] == str(len(response.content))
    return body["error"]["message"]


async def test_an_invalid_body(client):
    response = await client.post(PATH, content="{")
    assert "not valid JSON" in checked(response, 400, "invalid_request_error")


async def test_an_unknown_model(client):
    response = await client.post(PATH, json={**ASKED, "model": "other"})
    assert "'other'" in checked(response, 404, "not_found_error")


@pytest.mark.parametrize("path", [f"{PATH}/nothing", f"{PATH}/"])
async def test_an_unknown_path(client, path):
    checked(await client.post(path, json={}), 404, "not_found_error")


async def test_a_wrong_method(client):
    checked(await client.put(PATH), 405, "invalid_request_error")


async def test_a_body_that_is_too_large(client):
    response = await client.post(PATH, content=b" " * (MAX_BODY_BYTES + 1))
    checked(response, 413, "request_too_large")


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        ("queue_full", 429, "rate_limit_error"),
        ("unavailable", 503, "overloaded_error"),
        ("deadline_exceeded", 504, "timeout_error"),
        ("internal", 500, "api_error"),
    ],
)
async def test_a_refusal_of_the_engine(client, engine, monkeypatch, error, status, kind):
    async def refuse(submission, _):
        engine.emit(finish_reason="error", error=error, message="not now")

    engine.script = []
    monkeypatch.setattr(engine, "_play", refuse)
    response = await client.post(PATH, json=ASKED)
    assert checked(response, status, kind) == "not now"
    assert ("retry-after" in response.headers) == (status in (429, 503))


async def test_a_fault_of_the_server(client, service, monkeypatch):
    monkeypatch.setattr(service, "prepare_chat", None)
    response = await client.post(PATH, json=ASKED)
    checked(response, 500, "api_error")


@pytest.mark.parametrize("path", ["/v1/messagesx", "/v1/responses"])
async def test_other_paths_keep_their_shape(client, path):
    response = await client.post(path, json={})
    assert "type" not in response.json()
    assert "request-id" not in response.headers
