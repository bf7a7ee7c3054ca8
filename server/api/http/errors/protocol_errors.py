"""Errors in a protocol's own shape, on the paths of that protocol.

Whoever refuses a request, the body's limit, the router or the route, does so in OpenAI's shape.
This middleware rewords it. Statuses stay as they are in the one table.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.http.json_bodies.json_response import ErrorBody

# The body of an error: from its status, its sentence and the request's id.
type Wording = Callable[[int, str, str], msgspec.Struct]


class RewordedErrors:
    """Rewords every error of a protocol. With `id_header`, its answers have the request's id in it.

    `is_ours` says which requests are the protocol's.
    """

    def __init__(
        self,
        app: ASGIApp,
        is_ours: Callable[[Scope], bool],
        wording: Wording,
        *,
        id_header: str = "",
    ) -> None:
        self._app, self._is_ours, self._wording, self._id_header = app, is_ours, wording, id_header

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._is_ours(scope):
            request_id = scope["state"]["request_id"]
            send = _Rewording(request_id, self._wording, self._id_header, send)
        await self._app(scope, receive, send)


def is_below(path: str, scope: Scope) -> bool:
    """Whether the request is for this path or one below it."""
    return f"{scope['path']}/".startswith(f"{path}/")


class _Rewording:
    """One answer. The start of an error is held back until its body is known."""

    def __init__(self, request_id: str, wording: Wording, id_header: str, send: Send) -> None:
        self._request_id, self._wording, self._id_header = request_id, wording, id_header
        self._send = send
        self._start: Message | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if self._id_header:
                MutableHeaders(scope=message)[self._id_header] = self._request_id
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
        return msgspec.json.encode(self._wording(status, error.message, self._request_id))
