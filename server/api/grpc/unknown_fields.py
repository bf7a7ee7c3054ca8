"""Refuses a generation request that has fields of a newer client, or fields of a wrong type.

Such a field may ask for another answer, and protobuf passes unknown fields over in silence. Knows
neither what the fields mean nor the service.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from server.errors import ApiError, ErrorKind

# Numbers of fields by the full name of their message.
type Passed = Mapping[str, Collection[int]]


def check_known(message: Message, passed: Passed | None = None) -> None:
    """ApiError (invalid request) if the message, or one in it, has a field that is not known.

    `passed` are unknown fields that may be ignored.
    """
    if _has_unknown(message):
        _refuse(message, passed or {})


def _has_unknown(message: Message) -> bool:
    """Whether anything is lost without unknown fields. Walking through every message is slow."""
    known = type(message)()
    known.CopyFrom(message)
    known.DiscardUnknownFields()
    return known.ByteSize() != message.ByteSize()


def _refuse(message: Message, passed: Passed) -> None:
    for part, number in _unknown(message):
        name = part.DESCRIPTOR.full_name
        if known := part.DESCRIPTOR.fields_by_number.get(number):
            raise ApiError(
                ErrorKind.INVALID_REQUEST,
                f"field {number} of {name}, {known.name}, comes as another type than it has; build"
                " the client from this server's proto files",
                param=known.name,
            )
        if number not in passed.get(name, ()):
            raise ApiError(
                ErrorKind.INVALID_REQUEST,
                f"the request has field {number} of {name}, which this server does not know; a"
                " newer client may have sent it. Leave it out, or call a newer server",
            )


def _unknown(message: Message) -> Iterator[tuple[Message, int]]:
    unknown = UnknownFieldSet(message)
    for position in range(len(unknown)):
        yield message, unknown[position].field_number
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for inner in value if field.is_repeated else (value,):
            yield from _unknown(inner)
