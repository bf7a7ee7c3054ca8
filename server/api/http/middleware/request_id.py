"""A request's id: the client's or a new one, on the response and for logs. Knows no body."""

from __future__ import annotations

import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.requests.validation import check_request_id, is_request_id

HEADER = "x-request-id"


class RequestIdMiddleware:
    """Takes the client's X-Request-Id, or creates an id, and puts it on the response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        state = scope.setdefault("state", {})
        state["request_id"] = given if is_request_id(given) else uuid.uuid4().hex

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = state["request_id"]
            await send(message)

        await self._app(scope, receive, send_with_id)


def adopt_request_id(request: Request, given: str | None) -> str:
    """The request's id. An id in the body replaces the id that the middleware chose."""
    if given is not None:
        check_request_id(given)
        request.state.request_id = given
    request_id: str = request.state.request_id
    return request_id
