"""Messages out of the bytes of a call: bytes that are no message are the client's fault.

grpc's own deserializers would log a traceback and answer UNKNOWN. Decoding holds the interpreter
lock to its end, so the fields and numbers of a large message are counted first, in a thread, and
one large message is decoded at a time. Knows no service.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from server.api.large_work import LARGE_BYTES, decode_large
from server.errors import ApiError, ErrorKind

# Up to this size, decoding takes a few milliseconds whatever the message holds.
MAX_INLINE_BYTES = 1 << 16
MAX_FIELDS = 10_000
# In packed lists: about as many as a JSON body may hold.
MAX_NUMBERS = 1 << 20
# Protobuf's encodings of a value on the wire.
_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
# The types of number that requests have lists of.
_PACKED = (FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_UINT64)
_NOT_LAST = bytes(range(0x80, 0x100))
_FIXED_SIZES = {_FIXED_64: 8, _FIXED_32: 4}


def parse[M: Message](message_type: type[M], data: bytes) -> M:
    """Decode a message; ApiError (invalid request) for bytes, or text in them, that are none."""
    try:
        return message_type.FromString(data)
    except DecodeError:
        name = message_type.DESCRIPTOR.full_name
        raise ApiError(ErrorKind.INVALID_REQUEST, f"the request is not a valid {name}") from None


def _anything(message: Message) -> None:
    """Refuses nothing."""


async def parse_large[M: Message](
    message_type: type[M], data: bytes, check: Callable[[M], None] = _anything
) -> M:
    """The same for a message of any size; ApiError also for one with too many fields or numbers.

    `check` raises ApiError for a message that is not to be taken.
    """
    work = partial(_parse_checked, message_type, data, check)
    if len(data) <= MAX_INLINE_BYTES:
        return work()
    if len(data) <= LARGE_BYTES:
        return await asyncio.to_thread(work)
    return await decode_large(work)


def _parse_checked[M: Message](message_type: type[M], data: bytes, check: Callable[[M], None]) -> M:
    if len(data) > MAX_INLINE_BYTES:
        _refuse_many(message_type, data)
    message = parse(message_type, data)
    check(message)
    return message


def _refuse_many(message_type: type[Message], data: bytes) -> None:
    """ApiError for more than a request can mean. What is no message, `parse` refuses."""
    num_numbers = 0
    try:
        for count, in_list in enumerate(_fields(message_type.DESCRIPTOR, memoryview(data))):
            num_numbers += in_list
            if count >= MAX_FIELDS or num_numbers > MAX_NUMBERS:
                raise ApiError(
                    ErrorKind.INVALID_REQUEST,
                    f"the message holds more than {MAX_FIELDS} fields or {MAX_NUMBERS} numbers;"
                    " send several requests",
                )
    except (IndexError, ValueError):
        return


def _fields(descriptor: Any, data: memoryview) -> Iterator[int]:
    """For every field, those of messages inside included, how many numbers its packed list has."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, encoding = key >> 3, key & 7
        field = descriptor.fields_by_number.get(number)
        if encoding == _VARINT:
            _, at = _varint(data, at)
            yield 0
        elif encoding == _BYTES:
            size, at = _varint(data, at)
            content = data[at : at + size]
            yield _num_packed(content) if field is not None and field.type in _PACKED else 0
            if field is not None and field.type == FieldDescriptor.TYPE_MESSAGE:
                yield from _fields(field.message_type, content)
            at += size
        else:
            at += _size_of(encoding)
            yield 0


def _num_packed(content: memoryview) -> int:
    """A number ends with the byte whose highest bit is not set."""
    return len(bytes(content).translate(None, _NOT_LAST))


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
