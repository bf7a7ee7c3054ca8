"""Options of a newer client: refused, because their silence would be another answer."""

from __future__ import annotations

import grpc
import pytest

from server.api.grpc.unknown_fields import check_known
from server.errors import ApiError
from server.pb.antipode.v1 import generation_pb2 as pb
from tests.api.fakes import FakeEngine
from tests.api.grpc.serving import failure, serving

PASSED = {"antipode.v1.GenerateRequest": range(11, 16)}
# Field 1000 with the text "y", and field 12 with the same.
UNKNOWN, RESERVED = b"\xc2\x3e\x01y", b"\x62\x01y"


def with_unknown(message, extra=UNKNOWN):
    return type(message).FromString(message.SerializeToString() + extra)


CHAT = pb.Chat(messages=[pb.ChatMessage(role="user", content="x")])
SAMPLING = pb.Sampling(temperature=0.5, logit_bias={1: 2.0}, stop=["x"])
MESSAGES = {
    "antipode.v1.GenerateRequest": with_unknown(pb.GenerateRequest(text="x")),
    "antipode.v1.Sampling": pb.GenerateRequest(text="x", sampling=with_unknown(SAMPLING)),
    "antipode.v1.ChatMessage": pb.GenerateRequest(
        chat=pb.Chat(messages=[with_unknown(CHAT.messages[0])])
    ),
    "antipode.v1.TokenizeRequest": with_unknown(pb.TokenizeRequest(text="x")),
}


@pytest.mark.parametrize(("name", "message"), MESSAGES.items(), ids=MESSAGES)
def test_an_unknown_field_is_refused_by_number_and_message(name, message):
    with pytest.raises(ApiError, match=rf"field 1000 of {name}, which this server does not know"):
        check_known(message)


def test_known_fields_and_those_reserved_for_resuming_pass():
    check_known(pb.GenerateRequest(chat=CHAT, sampling=SAMPLING, resume=pb.Resume()))
    check_known(with_unknown(pb.GenerateRequest(text="x"), RESERVED), PASSED)


def test_a_known_field_of_a_wrong_type_is_named():
    # Field 1 of GenerateRequest is a text; here it is a number.
    message = pb.GenerateRequest.FromString(b"\x08\x05")
    name = pb.GenerateRequest.DESCRIPTOR.fields_by_number[1].name
    with pytest.raises(ApiError, match=rf"field 1 of \S+, {name}, comes as another type") as error:
        check_known(message)
    assert error.value.param == name


async def test_a_call_with_an_unknown_option_is_an_invalid_argument():
    async with serving(FakeEngine([[262]])) as s:
        error = await failure(s.stub.Generate(MESSAGES["antipode.v1.Sampling"]))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "a newer client may have sent it" in error.details()
