"""Applies to every request before its route: a request id on the response, and a limit on the body.

It decides by headers and lengths. Knows ASGI, but not what a body says.
"""

from __future__ import annotations

import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.http.errors import error_response
from server.api.requests.validation import check_request_id, is_request_id
from server.errors import ApiError, ErrorKind

HEADER = "x-request-id"
# As many bytes as so many bodies of the greatest length have may be held until they are answered.
MAX_BODIES_HELD = 64
_FULL = "the server holds as many bytes of other requests as it can; send it again later"


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


class BodyLimitMiddleware:
    """Answers 413 to a longer body: at once if its declared length is too long, else on arrival.

    It also bounds the memory of all bodies together, from their first byte to their answer.
    `room_for_images` is how much longer a body may be; it is no more memory for all of them.
    """

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, room_for_images: int = 0) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes + room_for_images
        self._room_for_images = room_for_images
        self._num_bytes_held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > self._max_body_bytes:
            # Closing the connection saves both sides the rest of the body.
            response = error_response(self._too_large(), connection="close")
            await response(scope, receive, send)
            return
        num_bytes = 0

        async def limited_receive() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_new = len(message.get("body", b""))
            num_bytes += num_new
            self._num_bytes_held += num_new
            if num_bytes > self._max_body_bytes:
                raise HTTPException(413, self._too_large().message, {"connection": "close"})
            if self._num_bytes_held > self._max_bytes_held:
                raise HTTPException(503, _FULL, {"connection": "close"})
            return message

        async def releasing_send(message: Message) -> None:
            nonlocal num_bytes
            if message["type"] == "http.response.start":
                self._num_bytes_held -= num_bytes
                num_bytes = 0
            await send(message)

        try:
            await self._app(scope, limited_receive, releasing_send)
        finally:
            self._num_bytes_held -= num_bytes

    @property
    def _max_bytes_held(self) -> int:
        bodies = MAX_BODIES_HELD * (self._max_body_bytes - self._room_for_images)
        return max(bodies, self._max_body_bytes)

    def _too_large(self) -> ApiError:
        limit = self._max_body_bytes
        return ApiError(ErrorKind.TOO_LARGE, f"the body must have at most {limit} bytes")


def adopt_request_id(request: Request, given: str | None) -> str:
    """The request's id. An id in the body replaces the id that the middleware chose."""
    if given is not None:
        check_request_id(given)
        request.state.request_id = given
    request_id: str = request.state.request_id
    return request_id
