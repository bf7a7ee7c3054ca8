"""Sends every failure in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.

It looks kinds up in the table of `server.errors` and decides nothing itself. It never logs what a
client sent, and never repeats it in full.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from server.api.http.json_bodies.json_response import ErrorBody, ErrorDetail
from server.api.http.routes.paths import Paths
from server.errors import ApiError, ErrorKind

_KIND_OF_STATUS = {413: ErrorKind.TOO_LARGE, 503: ErrorKind.UNAVAILABLE}
# By pydantic's type of a fault. Its own sentences speak of Python: dictionaries, and attributes.
_NO_OBJECT = "should be an object"
_OF_TYPES = dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), _NO_OBJECT)


def error_json(error: ApiError) -> bytes:
    """The body that reports `error` to a client."""
    detail = ErrorDetail(
        # A message may quote a client's JSON, and JSON can carry lone surrogates.
        message=error.message.encode(errors="replace").decode(),
        type=error.kind.spec.openai_type,
        param=error.param,
        code=error.code,
    )
    return msgspec.json.encode(ErrorBody(detail))


def error_response(error: ApiError, status: int | None = None, **headers: str) -> Response:
    spec = error.kind.spec
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    return Response(
        error_json(error),
        status_code=status or spec.http_status,
        headers=headers,
        media_type="application/json",
    )


def add_error_handlers(app: FastAPI, paths: Paths) -> None:
    """Register a handler for every kind of failure. `paths` knows what the application has."""

    async def on_http_exception(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        match error.status_code:
            case 404:
                advice = paths.advice(request.url.path)
                return error_response(ApiError(ErrorKind.NOT_FOUND, advice))
            case 405:
                return _wrong_method(request, paths.methods_of(request.url.path))
        return _unreadable(error)

    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_body)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(ClientDisconnect, _on_gone_client)
    app.add_exception_handler(Exception, _on_fault)


async def _on_api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error)


def _wrong_method(request: Request, methods: list[str]) -> Response:
    allowed = ", ".join(methods)
    sentence = f"{request.url.path} does not take {request.method}; it takes {allowed}"
    return error_response(ApiError(ErrorKind.INVALID_REQUEST, sentence), 405, allow=allowed)


def _unreadable(error: HTTPException) -> Response:
    """A body that is too large, damaged, or no JSON."""
    if isinstance(error.__cause__, ApiError):
        return error_response(error.__cause__)
    kind = _KIND_OF_STATUS.get(error.status_code, ErrorKind.INVALID_REQUEST)
    message = _reading_fault(error.__cause__) or str(error.detail)
    return error_response(ApiError(kind, message), error.status_code, **(error.headers or {}))


async def _on_invalid_body(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        at = f"{first['ctx']['error']} at character {first['loc'][-1]}"
        return error_response(_invalid(f"the body is not valid JSON: {at}"))
    if first["loc"] == ("body",):
        return error_response(_invalid(_body_fault(request)))
    param = _param(first["loc"])
    message = _OF_TYPES.get(first["type"], first["msg"])
    message = message.removeprefix("Input ").removeprefix("Value error, ")
    return error_response(_invalid(f"{param}: {message[0].lower()}{message[1:]}", param))


async def _on_gone_client(_: Request, __: Exception) -> Response:
    """Nobody gets it; without it, a client that leaves within its body would count as a fault."""
    return error_response(ApiError(ErrorKind.CANCELLED, "the client closed the connection"))


async def _on_fault(_: Request, __: Exception) -> Response:
    fault = ApiError(ErrorKind.INTERNAL, "the server failed to handle this request")
    # The connection ends with an application that failed: its client must not use it again.
    return error_response(fault, connection="close")


def _invalid(message: str, param: str | None = None) -> ApiError:
    return ApiError(ErrorKind.INVALID_REQUEST, message, param=param)


def _body_fault(request: Request) -> str:
    if "json" not in request.headers.get("content-type", ""):
        return "send the body as JSON, with the header Content-Type: application/json"
    return "the body must be a JSON object"


def _reading_fault(cause: BaseException | None) -> str | None:
    match cause:
        case UnicodeDecodeError():
            return "the body is not valid UTF-8"
        case RecursionError():
            return "the body is nested too deeply"
        case ValueError():
            return "the body holds a number that is too long to be read"
    return None


def _param(location: Sequence[Any]) -> str:
    """`messages[0].content` from ("body", "messages", 0, "content")."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in location[1:]]
    return "".join(parts).lstrip(".")
