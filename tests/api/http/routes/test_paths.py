"""What a client that asks for a wrong path or method learns."""

from __future__ import annotations

import pytest

COMPLETIONS, CHAT, MODELS = "POST /v1/completions", "POST /v1/chat/completions", "GET /v1/models"


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", CHAT),
        ("/completions", COMPLETIONS),
        ("/models", MODELS),
        ("/v1/v1/chat/completions", CHAT),
        ("/v1/v1/v1/models", MODELS),
        ("/v1/chat/completions/", CHAT),
        ("//v1//completions", COMPLETIONS),
        ("/V1/Completions", COMPLETIONS),
        ("/v1/tokenize", "POST /tokenize"),
        ("/v1/health", "GET /health"),
        ("/openai/deployments/gpt/chat/completions", CHAT),
        ("/v1/engines/x/completions", COMPLETIONS),
        ("/v1/chat/completion", CHAT),
        ("/v1/generate", COMPLETIONS),
        ("/api/generate", COMPLETIONS),
        ("/api/chat", CHAT),
        ("/api/tags", MODELS),
        ("/generate", COMPLETIONS),
        ("/completion", COMPLETIONS),
        ("/healthz", "GET /health"),
        ("/live", "GET /livez"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
async def test_a_wrong_path_names_the_right_one(client, path, meant, method):
    response = await client.request(method, f"http://server{path}")
    assert response.status_code == 404
    if method != "HEAD":
        error = response.json()["error"]
        assert error["type"] == "not_found_error"
        assert f"use {meant}" in error["message"]


async def test_the_list_of_models_with_a_slash_is_not_a_model(client):
    message = (await client.get("/v1/models/")).json()["error"]["message"]
    assert f"use {MODELS}" in message


async def test_a_path_like_no_other_lists_what_there_is(client):
    message = (await client.get("/" + "x" * 5000)).json()["error"]["message"]
    assert COMPLETIONS in message
    assert CHAT in message
    assert len(message) < 800


async def test_a_path_of_a_server_that_has_more_is_not_promised(client):
    message = (await client.post("/api/pull")).json()["error"]["message"]
    assert "use" not in message


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/completions", "OPTIONS, POST"),
        ("HEAD", "/v1/completions", "OPTIONS, POST"),
        ("POST", "/v1/models", "GET, HEAD, OPTIONS"),
        ("DELETE", "/v1/models/small", "GET, HEAD, OPTIONS"),
        ("PUT", "/tokenize", "OPTIONS, POST"),
    ],
)
async def test_a_wrong_method_is_told_which_ones_there_are(client, method, path, allow):
    response = await client.request(method, path)
    assert (response.status_code, response.headers["allow"]) == (405, allow)
    assert method == "HEAD" or allow in response.json()["error"]["message"]
