"""Bytes that are no message, sent to every method that there is."""

from __future__ import annotations

import logging

import grpc
import pytest

from server.api.antipode_v1.versions import add_versions
from server.api.grpc.messages import parse
from server.errors import ApiError, ErrorKind
from server.pb.antipode.v1 import generation_pb2 as pb
from tests.api.fakes import FakeEngine
from tests.api.grpc.serving import failure, serving

GARBAGE = [b"\xff\xff\xff\xff", b"\x0a\x02\xff\xfe", b"\x0a\xff", b"\x07"]
# Its message has no field, so text that is none is a field of a later version.
LIST = "grpc.health.v1.Health/List"
UNARY = [
    "grpc.health.v1.Health/Check",
    "antipode.v1.Generation/Tokenize",
    "antipode.v1.Generation/Detokenize",
    "antipode.v1.Generation/Embed",
]
STREAMED = ["grpc.health.v1.Health/Watch", "antipode.v1.Generation/Generate"]
REFLECTION = ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"]
VERSIONS = ["ListVersions", "GetStatus", "LoadVersion", "Promote", "Rollback", "UnloadVersion"]


class EveryonesAdmin:
    """Lets everyone in and does nothing."""

    def authorize(self, authorization):
        return None


def is_silent(caplog):
    """Whether neither grpc nor the server logged; asyncio's logger hears of other tests' loops."""
    heard = [record for record in caplog.records if record.levelno > logging.DEBUG]
    return not [record for record in heard if record.name != "asyncio"]


def test_a_message_is_read_from_its_bytes():
    data = pb.GenerateRequest(text="x").SerializeToString()
    assert parse(pb.GenerateRequest, data).text == "x"


def test_fields_of_a_later_version_are_passed_over():
    data = pb.GenerateRequest(text="x").SerializeToString() + b"\xfa\x7f\x01y"
    assert parse(pb.GenerateRequest, data).text == "x"


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05x", b"\x0a\x02\xff\xfe"])
def test_truncated_or_not_utf8_is_invalid(data):
    with pytest.raises(ApiError, match="not a valid antipode") as error:
        parse(pb.GenerateRequest, data)
    assert error.value.kind is ErrorKind.INVALID_REQUEST


CALLS = [(method, data) for method in UNARY + STREAMED for data in GARBAGE]


@pytest.mark.parametrize(("method", "data"), [*CALLS, (LIST, GARBAGE[0])])
async def test_garbage_is_an_invalid_argument_and_silent(method, data, caplog):
    async with serving(FakeEngine([[]])) as server:
        kind = "unary_stream" if method in STREAMED else "unary_unary"
        error = await failure(getattr(server.channel, kind)(f"/{method}")(data))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "is not a valid" in error.details()
    assert is_silent(caplog)


@pytest.mark.parametrize("data", GARBAGE)
@pytest.mark.parametrize("service", REFLECTION)
async def test_garbage_to_reflection_is_the_same(service, data, caplog):
    async with serving(FakeEngine([[]])) as server:
        call = server.channel.stream_stream(f"/{service}/ServerReflectionInfo")()
        await call.write(data)
        error = await failure(call)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert is_silent(caplog)


@pytest.mark.parametrize("method", VERSIONS)
async def test_garbage_to_the_admin_port_is_the_same(method, caplog):
    server = grpc.aio.server()
    add_versions(server, EveryonesAdmin())
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        error = await failure(channel.unary_unary(f"/antipode.v1.Versions/{method}")(b"\xff\xff"))
    await server.stop(0)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert is_silent(caplog)
