"""Messages out of the bytes of a call: bytes that are no message are the client's fault.

grpc's own deserializers would log a traceback and answer UNKNOWN. Decoding holds the interpreter
lock for as long as a message has fields, so a large message's fields are counted first, in a
thread. Knows no service.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from server.api.large_work import LARGE_BYTES, memory_return
from server.errors import ApiError, ErrorKind

# Up to this size, decoding takes a few milliseconds whatever the message holds.
MAX_INLINE_BYTES = 1 << 16
MAX_FIELDS = 10_000
# Protobuf's encodings of a value on the wire.
_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED_64: 8, _FIXED_32: 4}


def parse[M: Message](message_type: type[M], data: bytes) -> M:
    """Decode a message; ApiError (invalid request) for bytes, or text in them, that are none."""
    try:
        return message_type.FromString(data)
    except DecodeError:
        name = message_type.DESCRIPTOR.full_name
        raise ApiError(ErrorKind.INVALID_REQUEST, f"the request is not a valid {name}") from None


async def parse_large[M: Message](message_type: type[M], data: bytes) -> M:
    """The same for a message of any size; ApiError also for one with too many fields."""
    if len(data) > MAX_INLINE_BYTES:
        await asyncio.to_thread(_refuse_many_fields, message_type, data)
    if len(data) > LARGE_BYTES:
        memory_return.soon()
    return parse(message_type, data)


def _refuse_many_fields(message_type: type[Message], data: bytes) -> None:
    """ApiError for more fields than a request can mean. What is no message, `parse` refuses."""
    try:
        for count, _ in enumerate(_fields(message_type.DESCRIPTOR, memoryview(data))):
            if count >= MAX_FIELDS:
                raise ApiError(
                    ErrorKind.INVALID_REQUEST,
                    f"the message holds more than {MAX_FIELDS} fields; send several requests",
                )
    except (IndexError, ValueError):
        return


def _fields(descriptor: Any, data: memoryview) -> Iterator[int]:
    """The number of every field, those of messages inside included. A packed list is one field."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, encoding = key >> 3, key & 7
        yield number
        if encoding == _VARINT:
            _, at = _varint(data, at)
        elif encoding == _BYTES:
            size, at = _varint(data, at)
            field = descriptor.fields_by_number.get(number)
            if field is not None and field.type == FieldDescriptor.TYPE_MESSAGE:
                yield from _fields(field.message_type, data[at : at + size])
            at += size
        else:
            at += _size_of(encoding)


def _size_of(encoding: int) -> int:
    if encoding not in _FIXED_SIZES:
        raise ValueError("no encoding of a field that a message here has")
    return _FIXED_SIZES[encoding]


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """The number that begins at a place, and the place after it."""
    value = shift = 0
    while data[at] & 0x80:
        value |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
    return value | data[at] << shift, at + 1
