"""Bytes that are no message, sent to every method that there is."""

from __future__ import annotations

import logging

import grpc
import pytest

from server.api.antipode_v1.versions import add_versions
from server.api.grpc import messages
from server.api.grpc.messages import MAX_FIELDS, MAX_NUMBERS, parse, parse_large
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


LARGE = "x" * (1 << 17)


async def test_a_large_message_is_the_same_as_a_small_one():
    message = pb.GenerateRequest(
        text=LARGE,
        sampling=pb.Sampling(temperature=0.5, logit_bias={1: 2.0}, stop=["a"], seed=1 << 63),
        token_ids=pb.TokenIds(ids=range(100_000)),
    )
    assert await parse_large(pb.GenerateRequest, message.SerializeToString()) == message


@pytest.mark.parametrize(
    "message",
    [
        pb.GenerateRequest(chat=pb.Chat(messages=[pb.ChatMessage(content="abcdefg")] * MAX_FIELDS)),
        pb.GenerateRequest(sampling=pb.Sampling(stop=["abcdefg"] * (MAX_FIELDS + 1))),
        pb.GenerateRequest(
            sampling=pb.Sampling(logit_bias=dict.fromkeys(range(MAX_FIELDS + 1), 1.0))
        ),
    ],
)
async def test_a_message_of_very_many_fields_is_refused(message, monkeypatch):
    with pytest.raises(ApiError, match="more than 10000 fields"):
        await parse_large(pb.GenerateRequest, message.SerializeToString())


async def test_very_many_numbers_are_refused_before_they_are_decoded(monkeypatch):
    ids = [1, 300] * (MAX_NUMBERS // 4)
    message = pb.GenerateRequest(resume=pb.Resume(received=[pb.TokenIds(ids=ids)] * 2))
    assert await parse_large(pb.GenerateRequest, message.SerializeToString()) == message
    message.token_ids.ids.append(1)
    data = message.SerializeToString()
    monkeypatch.setattr(messages, "parse", None)
    with pytest.raises(ApiError, match=f"{MAX_NUMBERS} numbers"):
        await parse_large(pb.GenerateRequest, data)


@pytest.mark.parametrize(
    "garbage", [b"\xff" * (1 << 17), b"\x07" * (1 << 17), b"\x0a\xff" * (1 << 16)]
)
async def test_large_bytes_that_are_no_message_are_refused_as_small_ones(garbage):
    with pytest.raises(ApiError, match="not a valid antipode"):
        await parse_large(pb.GenerateRequest, garbage)


async def test_lists_that_are_too_long_are_refused_before_they_are_copied():
    long = [1] * 100_000
    for message, words in (
        (pb.GenerateRequest(token_ids=pb.TokenIds(ids=long)), "maximum context length is 256"),
        (pb.GenerateRequest(text="x", sampling=pb.Sampling(stop_token_ids=long)), "at most"),
        (
            pb.GenerateRequest(text="x", resume=pb.Resume(received=[pb.TokenIds(ids=long)])),
            "maximum context length is 256",
        ),
    ):
        async with serving(FakeEngine()) as s:
            assert words in (await failure(s.stub.Generate(message))).details()
