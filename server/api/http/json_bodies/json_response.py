"""The bodies that every protocol over HTTP sends, and how a struct becomes a response."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct
from starlette.responses import Response

# Replaces the -inf of a token that cannot be drawn, because JSON has no infinity.
LOWEST_LOGPROB = -9999.0
# Encoding so many entries takes about a millisecond.
_LONG_LIST = 1024
# Choices are fewer; the entries of a list with more are small.
_MANY_STRUCTS = 256


class ErrorDetail(Struct, frozen=True, kw_only=True):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Struct, frozen=True):
    error: ErrorDetail


def json_response(body: Struct, status: int = 200) -> Response:
    return Response(encode(body), status_code=status, media_type="application/json")


def encode(body: Struct) -> bytes:
    """The JSON of a body. Long lists are encoded in pieces: each holds the interpreter lock."""
    return msgspec.json.encode(_in_pieces(body))


def _in_pieces(value: Any) -> Any:
    """The same value, with every list that is long, or in something that is, as finished JSON."""
    if isinstance(value, Struct):
        changed = {
            name: piece
            for name in value.__struct_fields__
            if (piece := _in_pieces(part := getattr(value, name))) is not part
        }
        return msgspec.structs.replace(value, **changed) if changed else value
    if not isinstance(value, list) or not value:
        return value
    if len(value) > _LONG_LIST:
        parts = (value[i : i + _LONG_LIST] for i in range(0, len(value), _LONG_LIST))
        return msgspec.Raw(b"[%b]" % b",".join(msgspec.json.encode(part)[1:-1] for part in parts))
    if len(value) > _MANY_STRUCTS:
        return value
    pieces = [_in_pieces(part) for part in value]
    return pieces if any(a is not b for a, b in zip(pieces, value, strict=True)) else value


def finite(logprob: float) -> float:
    return max(logprob, LOWEST_LOGPROB)
