"""Large JSON bodies: decoded in a thread, and refused if they hold more than a request can mean.

Decoding and validation hold the interpreter lock: their time must be bounded, and it grows with the
number of values, not with the length of texts. Numbers are cheap, so objects, lists, texts and keys
are counted. Knows JSON, but no endpoint.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import msgspec
from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from server.api.large_work import LARGE_BYTES, decode_large
from server.errors import ApiError, ErrorKind

# Up to this size, decoding and validating takes a few milliseconds whatever the body holds.
MAX_INLINE_BYTES = 1 << 14
MAX_VALUES = 10_000
# Before decoding only marks can be counted, and those in texts count too.
_MAX_MARKS = ((b"{[", 1 << 18), (b":", 1 << 17), (b'"', 1 << 20), (b",", 1 << 21))
# The types of so many entries are looked at in one go, without a turn for other threads.
_SLICE = 1 << 16

_COUNTED = frozenset({dict, list, str})

type Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class LargeBodyRoute(APIRoute):
    """A route whose large bodies are decoded by this module, and small ones by FastAPI."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def handle_large(request: Request) -> Response:
            return await handle(_Request(request.scope, request.receive))

        return handle_large


class _Request(Request):
    async def json(self) -> Any:
        body = await self.body()
        if len(body) <= MAX_INLINE_BYTES:
            return await super().json()
        if len(body) > LARGE_BYTES:
            return await decode_large(partial(decode, body))
        return await asyncio.to_thread(decode, body)


def decode(body: bytes) -> Any:
    """The value of a JSON text. ApiError for too many values, JSONDecodeError for no JSON."""
    for marks, limit in _MAX_MARKS:
        if sum(body.count(mark) for mark in marks) > limit:
            raise _too_many()
    try:
        value = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        reason, _, place = str(error).partition(" (byte ")
        raise json.JSONDecodeError(reason, "", int(place.rstrip(")") or 0)) from None
    if _num_values(value) > MAX_VALUES:
        raise _too_many()
    return value


def _num_values(value: Any) -> int:
    """Objects, lists, texts and keys, counted until they are too many."""
    count, waiting = 0, [value]
    while waiting and count <= MAX_VALUES:
        value = waiting.pop()
        count += 1
        if isinstance(value, dict):
            count += len(value)
            waiting += _counted(list(value.values()))
        elif isinstance(value, list):
            for begin in range(0, len(value), _SLICE):
                waiting += _counted(value[begin : begin + _SLICE])
    return count


def _counted(values: list[Any]) -> list[Any]:
    """Those of these values that are counted."""
    if _COUNTED.isdisjoint(map(type, values)):
        return []
    return [value for value in values if type(value) in _COUNTED]


def _too_many() -> ApiError:
    return ApiError(
        ErrorKind.INVALID_REQUEST,
        f"the body holds more than {MAX_VALUES} objects, lists and texts, or too many numbers; send"
        " several requests",
    )
