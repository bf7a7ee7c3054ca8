"""Errors in Anthropic's shape: `{"type": "error", "error": {"type", "message"}, "request_id"}`.

Whoever refuses a request, the body's limit, the router or the route, does so in OpenAI's shape. The
middleware rewords it on the paths of this protocol. Statuses stay as they are in the one table.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.anthropic.response_bodies import ErrorType, Fault, MessageError
from server.api.http.bodies import ErrorBody
from server.errors import ApiError

PATH = "/v1/messages"
# OpenAI's protocol has this path too.
MODELS_PATH = "/v1/models"
_VERSION_HEADER = b"anthropic-version"
_TYPES: Mapping[int, ErrorType] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def asks_for_ours(scope: Scope) -> bool:
    """Whether a request is of a client of this protocol, which always sends its version."""
    return any(name == _VERSION_HEADER for name, _ in scope["headers"])


def message_error(error: ApiError, request_id: str) -> MessageError:
    """The event that ends a stream which has failed."""
    return _worded(error.kind.spec.http_status, error.message, request_id)


class AnthropicErrors:
    """Rewords every error on this protocol's paths, and adds the header `request-id` to answers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _is_ours(scope):
            send = _Rewording(scope["state"]["request_id"], send)
        await self._app(scope, receive, send)


def _is_ours(scope: Scope) -> bool:
    path = f"{scope['path']}/"
    return path.startswith(f"{PATH}/") or (
        path.startswith(f"{MODELS_PATH}/") and asks_for_ours(scope)
    )


class _Rewording:
    """One answer. The start of an error is held back until its body is known."""

    def __init__(self, request_id: str, send: Send) -> None:
        self._request_id = request_id
        self._send = send
        self._start: Message | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)["request-id"] = self._request_id
            if message["status"] >= 400:
                self._start = message
                return
        if self._start is None:
            await self._send(message)
            return
        self._body += message.get("body", b"")
        if not message.get("more_body", False):
            await self._send_error(self._start)

    async def _send_error(self, start: Message) -> None:
        body = self._reworded(start["status"])
        headers = MutableHeaders(scope=start)
        if "content-length" in headers and self._body:
            headers["content-length"] = str(len(body))
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    def _reworded(self, status: int) -> bytes:
        try:
            error = msgspec.json.decode(self._body, type=ErrorBody).error
        except msgspec.DecodeError:
            return self._body
        return msgspec.json.encode(_worded(status, error.message, self._request_id))


def _worded(status: int, message: str, request_id: str) -> MessageError:
    other: ErrorType = "invalid_request_error" if status < 500 else "api_error"
    return MessageError(error=Fault(_TYPES.get(status, other), message), request_id=request_id)
