"""Refuses a generation request that has fields of a newer client.

Such a field may ask for another answer, and protobuf passes unknown fields over in silence. Knows
neither what the fields mean nor the service.
"""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from server.errors import ApiError, ErrorKind
from server.pb.antipode.v1 import generation_pb2 as pb

# Reserved for what resuming may need: an older server resumes without it.
_PASSED = {pb.GenerateRequest.DESCRIPTOR.full_name: range(12, 16)}


def check_known(message: Message) -> None:
    """ApiError (invalid request) if the message, or one in it, has a field that is not known."""
    if _has_unknown(message):
        _refuse(message)


def _has_unknown(message: Message) -> bool:
    """Whether anything is lost without unknown fields. Walking through every message is slow."""
    known = type(message)()
    known.CopyFrom(message)
    known.DiscardUnknownFields()
    return known.ByteSize() != message.ByteSize()


def _refuse(message: Message) -> None:
    for name, number in _unknown(message):
        if number not in _PASSED.get(name, ()):
            raise ApiError(
                ErrorKind.INVALID_REQUEST,
                f"the request has field {number} of {name}, which this server does not know; a"
                " newer client may have sent it. Leave it out, or call a newer server",
            )


def _unknown(message: Message) -> Iterator[tuple[str, int]]:
    unknown = UnknownFieldSet(message)
    for position in range(len(unknown)):
        yield message.DESCRIPTOR.full_name, unknown[position].field_number
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for inner in value if field.is_repeated else (value,):
            yield from _unknown(inner)
