"""Decodes JSON of any size a request may have, without holding the interpreter lock for long.

The decoder holds the lock to its end, and its time grows with the number of values. So values are
counted first, and long lists of numbers are decoded in pieces. Texts cost little, however long
they are. Knows JSON, but no endpoint.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from server.errors import ApiError, ErrorKind

# Objects, lists, texts and keys; numbers are cheap.
MAX_VALUES = 10_000
# About as many token ids as a body of the greatest size holds.
MAX_NUMBERS = 1 << 20
# Decoding so many numbers at once takes a few milliseconds.
_MAX_NUMBERS_AT_ONCE = 1 << 15
_PIECE_BYTES = 1 << 16


class Integers(list[int]):
    """A list that was decoded in pieces, each entry of which is known to be a plain int."""


def decode(body: bytes) -> Any:
    """The value of a JSON text. ApiError for too many values, JSONDecodeError for no JSON."""
    parts = _split_at_quotes(body)
    structure = b'"'.join(parts[::2])
    num_opened, num_closed = structure.count(b"[") + structure.count(b"{"), structure.count(b"]")
    num_closed += structure.count(b"}")
    if max(num_opened, num_closed) + len(parts) // 2 > MAX_VALUES:
        raise _too_many()
    num_commas = structure.count(b",")
    if num_commas > MAX_NUMBERS + MAX_VALUES:
        raise _too_many()
    try:
        if num_commas <= _MAX_NUMBERS_AT_ONCE:
            return msgspec.json.decode(body)
        return _decode_in_pieces(body, parts)
    except msgspec.DecodeError as error:
        if "out of range" in str(error):
            # As Python says it of a small body: the reader's sentence has no place in it.
            raise ValueError(str(error)) from None
        reason, _, place = str(error).partition(" (byte ")
        raise json.JSONDecodeError(reason, "", int(place.rstrip(")") or 0)) from None


def _split_at_quotes(body: bytes) -> list[bytes]:
    """What lies between quotes: outside of texts, inside, outside, and so on.

    Escapes are blanked. ApiError before more texts are split than a request may have.
    """
    if b"\\" in body:
        body = body.replace(rb"\\", b"__").replace(rb"\"", b"__")
    if body.count(b'"') > 2 * MAX_VALUES:
        raise _too_many()
    return body.split(b'"')


def _decode_in_pieces(body: bytes, parts: list[bytes]) -> Any:
    """Decode the lists of numbers apart, and then the rest."""
    lists: list[list[Any]] = []
    kept, begin = [], 0
    for number, part in enumerate(parts):
        original = body[begin : begin + len(part)]
        begin += len(part) + 1
        kept.append(original if number % 2 else b"".join(_without_lists(original, lists)))
    if sum(part.count(b",") for part in kept[::2]) > _MAX_NUMBERS_AT_ONCE + MAX_VALUES:
        raise _too_many()
    return _put_back(msgspec.json.decode(b'"'.join(kept)), lists)


def _without_lists(part: bytes, lists: list[list[Any]]) -> Iterator[bytes]:
    """JSON outside of texts, with the place in `lists` where a list of plain values had these."""
    begin = 0
    while (end := part.find(b"]", begin)) >= 0:
        first = part.rfind(b"[", begin, end) + 1
        content = part[first:end]
        if first and content.strip() and b"{" not in content and b"}" not in content:
            yield part[begin:first] + b"%d]" % len(lists)
            lists.append(_decode_list(content))
        else:
            yield part[begin : end + 1]
        begin = end + 1
    yield part[begin:]


def _decode_list(content: bytes) -> list[Any]:
    """The values of a list that holds no others. DecodeError."""
    values, are_integers, begin = Integers(), True, 0
    while begin <= len(content):
        end = content.find(b",", begin + _PIECE_BYTES)
        end = len(content) if end < 0 else end
        piece = msgspec.json.decode(b"[%b]" % content[begin:end])
        if not piece:
            raise msgspec.DecodeError("JSON is malformed: trailing comma in array")
        values += piece
        are_integers = are_integers and set(map(type, piece)) == {int}
        begin = end + 1
    return values if are_integers else list(values)


def _put_back(value: Any, lists: list[list[Any]]) -> Any:
    """A list of one int is one that was taken out: no other list without lists or texts is left."""
    top = [value]
    waiting: list[Any] = [top]
    while waiting:
        holder = waiting.pop()
        for key, entry in holder.items() if isinstance(holder, dict) else enumerate(holder):
            if type(entry) is list and len(entry) == 1 and type(entry[0]) is int:
                holder[key] = lists[entry[0]]
            elif type(entry) in (dict, list):
                waiting.append(entry)
    return top[0]


def _too_many() -> ApiError:
    return ApiError(
        ErrorKind.INVALID_REQUEST,
        f"the body holds more than {MAX_VALUES} objects, lists and texts, or more than"
        f" {MAX_NUMBERS} numbers; send several requests",
    )
