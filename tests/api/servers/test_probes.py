"""Models, tokens, version, probes and metrics."""

from __future__ import annotations

import pytest

from server.link.frames import Pulse


async def test_the_list_of_models(client):
    body = (await client.get("/v1/models")).json()
    assert body["object"] == "list"
    (card,) = body["data"]
    assert card.pop("created") > 1_700_000_000
    assert card == {
        "id": "small",
        "object": "model",
        "owned_by": "antipode",
        "root": "small",
        "parent": None,
        "max_model_len": 256,
        "model_version": "1",
        "version": "1",
        "state": "AVAILABLE",
    }


async def test_the_served_model_is_found_and_no_other(client, engine):
    assert (await client.get("/v1/models/small")).json()["id"] == "small"
    assert (await client.get("/v1/models/other")).status_code == 404


async def test_a_model_whose_name_has_slashes(client, engine):
    engine.info = _renamed(engine.info, "org/small")
    assert (await client.get("/v1/models/org/small")).json()["id"] == "org/small"
    assert (await client.get("/v1/models/org")).status_code == 404


def _renamed(info, name):
    return type(info)(**{f: getattr(info, f) for f in info.__struct_fields__} | {"model": name})


async def test_tokenize_and_back(client, tokenizer):
    body = (await client.post("/tokenize", json={"prompt": "hello wörld"})).json()
    assert body == {
        "count": 7,
        "max_model_len": 256,
        "tokens": tokenizer.encode("hello wörld"),
        "token_strs": None,
    }
    back = await client.post("/detokenize", json={"tokens": body["tokens"]})
    assert back.json() == {"prompt": "hello wörld"}


async def test_tokenize_with_the_tokens_texts(client):
    body = {"prompt": "hello!", "return_token_strs": True}
    assert (await client.post("/tokenize", json=body)).json()["token_strs"] == ["hello", "!"]


async def test_tokenize_a_chat_as_it_would_be_generated_from(client, engine):
    messages = [{"role": "user", "content": "hello"}]
    body = (await client.post("/tokenize", json={"messages": messages})).json()
    await client.post("/v1/chat/completions", json={"messages": messages})
    assert engine.submitted[0].prompt_token_ids == body["tokens"]


async def test_tokenizing_an_empty_text_gives_no_tokens(client):
    assert (await client.post("/tokenize", json={"prompt": ""})).json()["tokens"] == []
    assert (await client.post("/detokenize", json={"tokens": []})).json() == {"prompt": ""}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/tokenize", {}, 400),
        ("/tokenize", {"prompt": "x", "messages": []}, 400),
        ("/tokenize", {"messages": []}, 400),
        ("/tokenize", {"prompt": "x", "model": "other"}, 404),
        ("/detokenize", {"tokens": [266]}, 400),
        ("/detokenize", {"tokens": [-1]}, 400),
        ("/detokenize", {"tokens": ["a"]}, 400),
        ("/detokenize", {"tokens": [1], "model": "other"}, 404),
    ],
)
async def test_tokens_that_cannot_be(client, path, body, status):
    response = await client.post(path, json=body)
    assert response.status_code == status
    assert response.json()["error"]["message"]


async def test_the_version_is_of_server_and_model(client, engine):
    body = (await client.get("/version")).json()
    assert (body["model"], body["model_version"]) == ("small", "1")
    assert body["version"][0].isdecimal()
    engine.info = None
    body = (await client.get("/version")).json()
    assert (body["model"], body["model_version"]) == (None, None)


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health"])
async def test_a_healthy_server(client, path):
    response = await client.get(path)
    assert response.status_code == 200
    assert response.json().keys() == {"state", "detail", "progress"}


async def test_a_loading_server_lives_and_is_not_ready(client, engine):
    engine.info = None
    engine.pulse = Pulse(
        state="starting",
        detail="loading weights",
        progress=0.5,
        phase="weights",
        phase_seconds=1.5,
    )
    assert (await client.get("/livez")).status_code == 200
    for path in ("/readyz", "/health"):
        response = await client.get(path)
        # The lifecycle is what says ready; without the engine's description it is not believed.
        assert response.status_code == 503
        assert response.json() == {
            "state": "starting",
            "detail": "loading weights",
            "progress": 0.5,
            "phase": "weights",
            "phase_seconds": 1.5,
        }


async def test_a_draining_server_lives_and_is_not_ready(client, lifecycle):
    lifecycle.begin_drain()
    assert (await client.get("/livez")).status_code == 200
    assert (await client.get("/readyz")).json()["state"] == "draining"
    assert (await client.get("/v1/models")).status_code == 200


async def test_a_hung_server_neither_lives_nor_is_ready(client, engine):
    engine.pulse = Pulse(state="ready", progress_age=31.0)
    for path in ("/livez", "/readyz"):
        response = await client.get(path)
        assert (response.status_code, response.json()["state"]) == (503, "hung")


async def test_metrics_are_the_engines_text_as_it_is(client, engine):
    response = await client.get("/metrics")
    assert response.content == b"up 1\n"
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    accept = {"accept": "application/openmetrics-text; version=1.0.0"}
    asked = await client.get("/metrics", headers=accept)
    assert asked.content == b"up 1\n# EOF\n"
    assert asked.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")


@pytest.mark.parametrize("state", ["starting", "draining", "failed"])
async def test_metrics_answer_in_every_state(client, engine, lifecycle, state):
    match state:
        case "starting":
            engine.info = None
        case "draining":
            lifecycle.begin_drain()
        case "failed":
            engine.failure = "the engine process has ended"
    assert (await client.get("/metrics")).content == b"up 1\n"
