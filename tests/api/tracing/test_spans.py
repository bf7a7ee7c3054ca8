from __future__ import annotations

import logging

import httpx
import pytest

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import (
    client_attributes,
    error_attributes,
    gen_ai_attributes,
    http_attributes,
    rpc_attributes,
    url_attributes,
)
from opentelemetry.trace import SpanKind, StatusCode

from server.api.access.gatekeeper import Gatekeeper
from server.api.servers.http_server import create_http_app
from server.api.tracing.spans import Tracing
from server.config.server_config import ServerConfig
from server.logs import JsonFormatter
from server.pb.antipode.v1 import generation_pb2 as pb
from tests.api.fakes import FakeEngine
from tests.api.grpc.serving import collect, failure, serving

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADERS = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
BODY = {"model": "small", "prompt": "secret", "max_tokens": 9, "stop": "hidden", "temperature": 0.5}
CHAT = {"model": "small", "messages": [{"role": "user", "content": "secret"}]}


@pytest.fixture
def exported():
    return InMemorySpanExporter()


@pytest.fixture
def gatekeeper(exported):
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    return Gatekeeper(start_span=Tracing(provider).start, logs_calls=True)


@pytest.fixture
def client(service, health, gatekeeper):
    app = create_http_app(service, health, ServerConfig(), gatekeeper=gatekeeper)
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://server")


def by_name(exported):
    return {span.name: span for span in exported.get_finished_spans()}


async def test_a_call_is_one_trace_from_the_callers_span_to_queue_prefill_and_decode(
    client, exported
):
    assert (await client.post("/v1/completions", json=BODY, headers=HEADERS)).is_success
    spans = by_name(exported)
    call, work = spans["POST /v1/completions"], spans["text_completion small"]
    assert {f"{span.context.trace_id:032x}" for span in spans.values()} == {TRACE}
    assert f"{call.parent.span_id:016x}" == PARENT
    assert (call.kind, work.kind) == (SpanKind.SERVER, SpanKind.INTERNAL)
    assert work.parent.span_id == call.context.span_id
    parts = [spans[name] for name in ("queue", "prefill", "decode")]
    assert {part.parent.span_id for part in parts} == {work.context.span_id}
    times = [work.start_time, *(part.end_time for part in parts), work.end_time]
    assert times == sorted(times)
    assert parts[0].end_time == parts[1].start_time
    assert parts[1].end_time == parts[2].start_time


async def test_spans_have_the_conventions_attributes_and_no_word_of_the_call(client, exported):
    answer = (await client.post("/v1/completions", json=BODY, headers=HEADERS)).json()
    spans = by_name(exported)
    attributes = dict(spans["text_completion small"].attributes)
    assert attributes.pop("gen_ai.response.time_to_first_chunk") >= 0
    assert attributes == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "antipode",
        "gen_ai.request.model": "small",
        "gen_ai.response.model": "small",
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.usage.input_tokens": answer["usage"]["prompt_tokens"],
        "gen_ai.usage.cache_read.input_tokens": 2,
        "gen_ai.usage.output_tokens": answer["usage"]["completion_tokens"],
        "gen_ai.response.finish_reasons": ("stop",),
        "antipode.model_version": "1",
    }
    call = spans["POST /v1/completions"].attributes
    assert call["http.response.status_code"] == 200
    assert call["url.path"] == "/v1/completions"
    for span in spans.values():
        for text in ("secret", "hidden", "hello wor"):
            assert text not in span.to_json()


async def test_spans_are_named_by_routes_however_many_paths_are_tried(client, exported):
    for path in ("/v1/models/small", "/v1/models/other", "/no/such/1", "/no/such/2"):
        await client.get(path)
    spans = exported.get_finished_spans()
    assert [span.name for span in spans] == ["GET /v1/models/{model}"] * 2 + ["GET"] * 2
    assert spans[1].attributes["http.route"] == "/v1/models/{model}"
    assert [span.attributes["url.scheme"] for span in spans] == ["http"] * 4


async def test_a_fault_of_the_server_is_an_error_of_the_span(client, exported, lifecycle):
    lifecycle.begin_drain()
    lifecycle.stop_accepting()
    assert (await client.post("/v1/completions", json=BODY)).status_code == 503
    await client.post("/v1/completions", json={})
    refused, wrong = exported.get_finished_spans()
    assert (refused.status.status_code, refused.attributes["error.type"]) == (
        StatusCode.ERROR,
        "503",
    )
    assert (wrong.status.status_code, "error.type" in wrong.attributes) == (StatusCode.UNSET, False)


async def test_chats_and_embeddings_are_told_apart(client, exported):
    await client.post("/v1/chat/completions", json=CHAT)
    await client.post("/v1/embeddings", json={"model": "small", "input": "secret"})
    spans = by_name(exported)
    assert spans["chat small"].attributes["gen_ai.operation.name"] == "chat"
    embedding = spans["embeddings small"].attributes
    assert embedding["gen_ai.usage.input_tokens"] > 0
    assert "gen_ai.usage.output_tokens" not in embedding


async def test_grpc_calls_are_traced_by_their_metadata(gatekeeper, exported):
    engine = FakeEngine([[104], FakeEngine.EOS])
    async with serving(engine, gatekeeper=gatekeeper) as server:
        request = pb.GenerateRequest(text="secret")
        await collect(server.stub.Generate(request, metadata=tuple(HEADERS.items())))
        await failure(server.stub.Generate(pb.GenerateRequest(model="other", text="x")))
    calls = [s for s in exported.get_finished_spans() if s.kind is SpanKind.SERVER]
    assert [span.name for span in calls] == ["antipode.v1.Generation/Generate"] * 2
    assert f"{calls[0].context.trace_id:032x}" == TRACE
    assert [span.attributes["rpc.response.status_code"] for span in calls] == ["OK", "NOT_FOUND"]
    assert "text_completion small" in by_name(exported)


async def test_a_request_that_never_ran_was_only_queued(client, exported, engine):
    engine.script = None

    def refuse(*arguments, **options):
        stream = FakeEngine.submit(engine, *arguments, **options)
        engine.emit(finish_reason="error", error="overloaded", message="late", retry_after=7)
        return stream

    engine.submit = refuse
    answer = await client.post("/v1/completions", json=BODY)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    spans = by_name(exported)
    assert "prefill" not in spans
    assert spans["text_completion small"].attributes["error.type"] == "overloaded"
    assert spans["text_completion small"].status.status_code is StatusCode.ERROR


async def test_every_attribute_is_one_of_the_conventions_that_are_in_force(client, exported):
    await client.post("/v1/completions", json=BODY)
    modules = (
        client_attributes, error_attributes, gen_ai_attributes, http_attributes, rpc_attributes,
        url_attributes,
    )  # fmt: skip
    known = {value for m in modules for name, value in vars(m).items() if name.isupper()}
    for span in exported.get_finished_spans():
        own = [name for name in span.attributes if not name.startswith("antipode.")]
        assert set(own) <= known


async def test_log_lines_carry_the_trace_of_their_call(client, caplog):
    caplog.set_level(logging.INFO)
    lines = []

    class Keeping(logging.Handler):
        def emit(self, record):
            lines.append(JsonFormatter("api-0").format(record))

    logger, keeping = logging.getLogger("server.api.access.gatekeeper"), Keeping()
    logger.addHandler(keeping)
    try:
        await client.get("/v1/models", headers=HEADERS)
    finally:
        logger.removeHandler(keeping)
    assert f'"trace_id": "{TRACE}"' in lines[0]
