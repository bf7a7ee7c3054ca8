"""The bodies that every protocol over HTTP sends, and how a struct becomes a response."""

from __future__ import annotations

import msgspec
from msgspec import Struct
from starlette.responses import Response

# Replaces the -inf of a token that cannot be drawn, because JSON has no infinity.
LOWEST_LOGPROB = -9999.0


class ErrorDetail(Struct, frozen=True, kw_only=True):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Struct, frozen=True):
    error: ErrorDetail


def json_response(body: Struct, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status_code=status, media_type="application/json")


def finite(logprob: float) -> float:
    return max(logprob, LOWEST_LOGPROB)
