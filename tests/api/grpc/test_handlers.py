"""What every method takes: exactly the requests that its kind has."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from google.protobuf import descriptor_pool
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from server.pb.antipode.v1 import generation_pb2 as pb
from tests.api.fakes import FakeEngine
from tests.api.grpc.serving import collect, failure, serving


async def methods_of_one_request(s) -> list[str]:
    """Read off the server's own reflection, so that a new service is held to it too."""
    reflection = reflection_pb2_grpc.ServerReflectionStub(s.channel)
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    [listed] = await collect(reflection.ServerReflectionInfo(asked))
    services = [each.name for each in listed.list_services_response.service]
    methods = [
        method
        for name in services
        for method in descriptor_pool.Default().FindServiceByName(name).methods
        if not method.client_streaming
    ]
    return [f"/{each.containing_service.full_name}/{each.name}" for each in methods]


@pytest.mark.parametrize(
    ("num_requests", "sentence"),
    [
        (0, "this method takes one request, and none came"),
        (2, "this method takes one request, and more came"),
    ],
)
async def test_a_method_of_one_request_takes_neither_none_nor_two(num_requests, sentence):
    engine = FakeEngine()
    async with serving(engine) as s:
        methods = await methods_of_one_request(s)
        assert len(methods) > 20
        for path in methods:
            call = s.channel.stream_stream(path)(iter([b""] * num_requests), timeout=10)
            error = await failure(call)
            assert (error.code(), error.details()) == (grpc.StatusCode.INVALID_ARGUMENT, sentence)
    assert engine.submitted == []


async def test_a_call_that_is_cancelled_before_its_request_leaves_nothing(caplog):
    async with serving(FakeEngine()) as s:

        async def never():
            await asyncio.Event().wait()
            yield pb.GenerateRequest()

        call = s.channel.stream_stream("/antipode.v1.Generation/Generate")(never())
        await asyncio.sleep(0.05)
        call.cancel()
        await asyncio.sleep(0.05)
        assert s.lifecycle.num_in_flight == 0
    assert [each for each in caplog.records if each.levelname == "ERROR"] == []
