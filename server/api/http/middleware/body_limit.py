"""Bounds the bytes of a body, and of all bodies that the server holds at once.

It decides by headers and lengths. Knows ASGI, but not what a body says.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.http.errors.error_responses import error_response
from server.errors import ApiError, ErrorKind

# As many bytes as so many bodies of the greatest length have may be held until they are answered.
MAX_BODIES_HELD = 64
_FULL = "the server holds as many bytes of other requests as it can; send it again later"


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
