from __future__ import annotations

import logging

import grpc
import pytest
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from server.api.access.gatekeeper import Gatekeeper
from server.pb.antipode.v1 import generation_pb2 as pb
from tests.api.access.keys import BEARER, BEARER_OF_LIMITED, KEY, two_keys
from tests.api.fakes import FakeEngine
from tests.api.grpc.serving import collect, failure, serving, until

REQUEST = pb.GenerateRequest(text="secret prompt")


@pytest.fixture
def engine():
    return FakeEngine([[104], [105, *FakeEngine.EOS]])


@pytest.fixture
async def guarded(engine, tmp_path):
    gatekeeper = Gatekeeper(engine, keys=two_keys(tmp_path), logs_calls=True)
    async with serving(engine, gatekeeper=gatekeeper) as server:
        yield server


def metadata(headers):
    return tuple(headers.items())


async def test_no_method_of_any_kind_answers_without_a_key(guarded, engine):
    reflection = reflection_pb2_grpc.ServerReflectionStub(guarded.channel)
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    for call in (
        guarded.stub.Generate(REQUEST),
        guarded.stub.Tokenize(pb.TokenizeRequest(text="x")),
        guarded.stub.Generate(REQUEST, metadata=(("authorization", "Bearer wrong"),)),
        reflection.ServerReflectionInfo(asked),
    ):
        error = await failure(call)
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "give a key" in error.details()
    assert engine.submitted == []
    assert set(engine.refused) == {"unauthenticated"}


async def test_of_all_methods_there_are_only_health_and_load_are_open(guarded):
    """Read off the server's own reflection, so that a new service is held to it too."""
    reflection = reflection_pb2_grpc.ServerReflectionStub(guarded.channel)
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    call = reflection.ServerReflectionInfo(asked, metadata=metadata(BEARER))
    [listed] = await collect(call)
    pool, opened = descriptor_pool.Default(), set()
    methods = [
        f"/{service.name}/{method.name}"
        for service in listed.list_services_response.service
        for method in pool.FindServiceByName(service.name).methods
    ]
    assert len(methods) > 20
    for path in methods:
        # On the wire, one message is a call of any kind.
        call = guarded.channel.stream_stream(path)(iter([b""]), timeout=20)
        try:
            await call.read()
            opened.add(path)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                opened.add(path)
        call.cancel()
    assert opened == {
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/List",
        "/grpc.health.v1.Health/Watch",
        "/inference.GRPCInferenceService/ServerLive",
        "/inference.GRPCInferenceService/ServerReady",
        "/vllm.grpc.engine.VllmEngine/HealthCheck",
        "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics",
    }


async def test_health_answers_everybody(guarded):
    stub = health_pb2_grpc.HealthStub(guarded.channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_key_opens_every_kind_of_method(guarded):
    assert len(await collect(guarded.stub.Generate(REQUEST, metadata=metadata(BEARER)))) > 0
    answer = await guarded.stub.Tokenize(pb.TokenizeRequest(text="x"), metadata=metadata(BEARER))
    assert answer.token_ids
    reflection = reflection_pb2_grpc.ServerReflectionStub(guarded.channel)
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    answers = await collect(reflection.ServerReflectionInfo(asked, metadata=metadata(BEARER)))
    assert answers[0].list_services_response.service


async def test_a_key_that_has_used_up_its_requests_is_told_when_to_return(guarded):
    request, key = pb.TokenizeRequest(text="x"), metadata(BEARER_OF_LIMITED)
    await guarded.stub.Tokenize(request, metadata=key)
    error = await failure(guarded.stub.Tokenize(request, metadata=key))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    pushback = int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"])
    assert 0 < pushback <= 60_000


async def test_calls_are_logged_and_counted_by_the_name_of_their_key(guarded, engine, caplog):
    caplog.set_level(logging.INFO)
    key = (*metadata(BEARER), ("x-request-id", "r-1"))
    await collect(guarded.stub.Generate(REQUEST, metadata=key))
    await failure(guarded.stub.Generate(REQUEST))
    [use] = engine.key_uses
    called, refused = [r for r in caplog.records if r.getMessage() == "call"]
    assert use == ("search", called.prompt_tokens, called.generated_tokens)
    assert (called.method, called.path) == ("gRPC", "/antipode.v1.Generation/Generate")
    assert (called.status, called.key, called.request_id) == ("OK", "search", "r-1")
    assert called.generated_tokens == 3
    assert (refused.status, refused.key) == ("UNAUTHENTICATED", "none")
    everything = "".join(str(vars(r)) for r in caplog.records if r.name.startswith("server"))
    assert KEY not in everything
    assert "secret" not in everything


async def test_a_time_limit_that_is_none_is_refused(engine):
    async with serving(engine) as server:
        call = server.stub.Generate(REQUEST, metadata=(("x-request-timeout-ms", "1e3"),))
        error = await failure(call)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "x-request-timeout-ms must be a whole number" in error.details()
    assert engine.submitted == []


async def test_a_call_that_the_client_cancels_is_logged_as_cancelled(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    engine = FakeEngine(None)
    async with serving(engine, gatekeeper=Gatekeeper(logs_calls=True)) as server:
        call = server.stub.Generate(REQUEST)
        await until(lambda: engine.submitted)
        call.cancel()
        await until(lambda: any(r.getMessage() == "call" for r in caplog.records))
    assert [r.status for r in caplog.records if r.getMessage() == "call"] == ["CANCELLED"]
