from __future__ import annotations

import logging

import httpx
import pytest

from server.api.access.gatekeeper import Gatekeeper
from server.api.servers.http_server import create_http_app
from server.config.server_config import ServerConfig
from tests.api.access.keys import BEARER, BEARER_OF_LIMITED, KEY, LIMITED, two_keys

COMPLETION = {"model": "small", "prompt": "secret prompt", "max_tokens": 4}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def keys(tmp_path, clock):
    return two_keys(tmp_path, clock)


@pytest.fixture
def client_of(service, health):
    def client_of(gatekeeper):
        app = create_http_app(
            service, health, ServerConfig(cors_origins="*"), gatekeeper=gatekeeper
        )
        transport = httpx.ASGITransport(app)
        return httpx.AsyncClient(transport=transport, base_url="http://server")

    return client_of


@pytest.fixture
def guarded(client_of, engine, keys, clock):
    return client_of(Gatekeeper(engine, keys=keys, logs_calls=True, clock=clock))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": KEY},
        {"authorization": "Bearer "},
        {"authorization": f"Bearer {KEY}x"},
        {"authorization": f"Basic {KEY}"},
        {"x-api-key": "wrong"},
        {"authorization": "Bearer wrong", "x-api-key": "wrong too"},
    ],
)
async def test_no_route_answers_without_a_key(guarded, engine, headers):
    for method, path in (
        ("POST", "/v1/completions"),
        ("POST", "/v1/messages"),
        ("POST", "/v2/models/small/infer"),
        ("POST", "/v2/repository/index"),
        ("GET", "/v2"),
        ("GET", "/v1/models"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/"),
        ("GET", "/version"),
        ("GET", "/nothing"),
        ("DELETE", "/v1/models"),
    ):
        answer = await guarded.request(method, path, headers=headers, content=b"no JSON")
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "give a key" in answer.text
    assert engine.submitted == []
    assert set(engine.refused) == {"unauthenticated"}


@pytest.mark.parametrize(
    "headers",
    [
        BEARER,
        {"x-api-key": KEY},
        {"authorization": f"bearer {KEY}"},
        {"authorization": "Bearer the-admin-token", "x-api-key": KEY},
    ],
)
async def test_a_key_opens_every_route(guarded, headers):
    assert (await guarded.get("/v1/models", headers=headers)).status_code == 200
    answer = await guarded.post("/v1/completions", json=COMPLETION, headers=headers)
    assert answer.status_code == 200


async def test_probes_and_metrics_answer_everybody(guarded):
    for path in ("/livez", "/readyz", "/health", "/metrics", "/v2/health/live", "/v2/health/ready"):
        assert (await guarded.get(path)).status_code == 200


async def test_metrics_may_need_a_key(client_of, keys):
    client = client_of(Gatekeeper(keys=keys, are_metrics_open=False))
    assert (await client.get("/metrics")).status_code == 401
    assert (await client.get("/metrics", headers=BEARER)).status_code == 200
    assert (await client.get("/readyz")).status_code == 200


async def test_browsers_ask_without_a_key_whether_they_may_send_one(guarded):
    asked = {"origin": "https://x", "access-control-request-method": "POST"}
    assert (await guarded.options("/v1/completions", headers=asked)).status_code == 200


async def test_each_protocol_words_the_refusal_its_way(guarded):
    answer = await guarded.post("/v1/messages", json={})
    assert answer.json()["error"]["type"] == "authentication_error"


async def test_a_key_that_is_replaced_holds_until_the_old_one_is_gone(guarded, tmp_path, clock):
    new = {"authorization": "Bearer the-new-key-of-search"}

    async def statuses():
        clock.now += 1
        return [(await guarded.get("/v1/models", headers=h)).status_code for h in (BEARER, new)]

    assert await statuses() == [200, 401]
    (tmp_path / "keys").write_text(f"search: {KEY}\nsearch: the-new-key-of-search\n")
    assert await statuses() == [200, 200]
    (tmp_path / "keys").write_text("search: the-new-key-of-search\n")
    assert await statuses() == [401, 200]
    (tmp_path / "keys").write_text("torn")
    assert await statuses() == [401, 200]


async def test_a_key_that_has_used_up_its_requests_is_told_when_to_return(guarded, engine, clock):
    assert (await guarded.get("/v1/models", headers=BEARER_OF_LIMITED)).status_code == 200
    answer = await guarded.get("/v1/models", headers=BEARER_OF_LIMITED)
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "60"
    assert "the key batch has used up its requests_per_minute" in answer.text
    assert LIMITED not in answer.text
    assert engine.refused == ["over_budget"]
    assert (await guarded.get("/v1/models", headers=BEARER)).status_code == 200
    clock.now += 60
    assert (await guarded.get("/v1/models", headers=BEARER_OF_LIMITED)).status_code == 200


async def test_tokens_are_spent_when_the_answer_ends(client_of, engine, tmp_path, clock):
    (tmp_path / "keys").write_text("")
    keys = two_keys(tmp_path, clock)
    (tmp_path / "keys").write_text(f"search: {KEY} tokens_per_minute=4\n")
    clock.now += 1
    client = client_of(Gatekeeper(engine, keys=keys, clock=clock))
    assert (await client.post("/v1/completions", json=COMPLETION, headers=BEARER)).is_success
    answer = await client.post("/v1/completions", json=COMPLETION, headers=BEARER)
    assert answer.status_code == 429
    assert "tokens_per_minute" in answer.text


async def test_what_a_key_used_is_counted_by_its_name(guarded, engine):
    answer = await guarded.post("/v1/completions", json=COMPLETION, headers=BEARER)
    usage = answer.json()["usage"]
    assert engine.key_uses == [("search", usage["prompt_tokens"], usage["completion_tokens"])]
    await guarded.post("/v1/embeddings", json={"input": "hello", "model": "small"}, headers=BEARER)
    [_, (name, num_prompt_tokens, num_generated_tokens)] = engine.key_uses
    assert (name, num_generated_tokens) == ("search", 0)
    assert num_prompt_tokens > 0


async def test_the_access_log_has_a_line_for_each_call_and_no_word_of_it(guarded, caplog):
    caplog.set_level(logging.INFO)
    headers = BEARER | {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "x-request-id": "r-1"}
    answer = await guarded.post("/v1/completions?q=secret", json=COMPLETION, headers=headers)
    await guarded.get("/nothing")
    await guarded.get("/metrics")
    called, refused = [r for r in caplog.records if r.getMessage() == "call"]
    assert (called.method, called.path, called.status) == ("POST", "/v1/completions", 200)
    assert (called.key, called.request_id) == ("search", "r-1")
    assert called.prompt_tokens == answer.json()["usage"]["prompt_tokens"]
    assert called.generated_tokens == answer.json()["usage"]["completion_tokens"]
    assert called.seconds >= 0
    assert (refused.path, refused.status, refused.key) == ("/nothing", 401, "none")
    everything = "".join(str(vars(r)) for r in caplog.records if r.name.startswith("server"))
    for secret in (KEY, "secret", "hello wor"):
        assert secret not in everything


async def test_a_request_carries_what_its_headers_ask_of_the_queue(client_of, engine):
    headers = {
        "x-llm-d-inference-objective": "batch",
        "x-llm-d-slo-ttft-ms": "250",
        "x-request-timeout-ms": "60000",
    }
    for trusts in (True, False):
        client = client_of(Gatekeeper(priorities={"batch": -1}, trusts_headers=trusts))
        await client.post("/v1/completions", json=COMPLETION, headers=headers)
        submitted = engine.submitted[-1]
        assert submitted.priority == (-1 if trusts else 0)
        assert submitted.ttft_seconds == 0.25
        assert submitted.deadline is not None


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/messages", "/v2/models/small/infer"])
async def test_a_time_limit_that_is_none_is_refused_on_every_route(client_of, engine, path):
    client = client_of(Gatekeeper())
    answer = await client.post(path, json=COMPLETION, headers={"x-request-timeout-ms": "0"})
    assert answer.status_code == 400
    assert "x-request-timeout-ms must be a whole number" in answer.text
    assert engine.submitted == []


async def test_fairness_ids_count_only_where_they_are_trusted(client_of, engine):
    sources = {}
    for trusts in (True, False):
        client = client_of(Gatekeeper(trusts_headers=trusts))
        for tenant in ("a", "b"):
            headers = {"x-llm-d-inference-fairness-id": tenant}
            await client.post("/v1/completions", json=COMPLETION, headers=headers)
            sources[trusts, tenant] = engine.submitted[-1].source
    assert sources[True, "a"] != sources[True, "b"]
    assert sources[False, "a"] == sources[False, "b"]


async def test_a_source_is_a_key_that_the_server_has_checked(client_of, engine, keys):
    sources = {}
    for has_keys in (True, False):
        client = client_of(Gatekeeper(keys=keys if has_keys else None))
        for key in (KEY, LIMITED):
            headers = {"x-api-key": key}
            answer = await client.post("/v1/completions", json=COMPLETION, headers=headers)
            assert answer.status_code == 200
            sources[has_keys, key] = engine.submitted[-1].source
    assert sources[True, KEY] != sources[True, LIMITED]
    assert sources[False, KEY] == sources[False, LIMITED]
