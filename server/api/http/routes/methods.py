"""HEAD wherever GET is, and OPTIONS for every path. Knows the paths, not what they do."""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.http.routes.paths import Paths


class MethodsMiddleware:
    """Answers HEAD by GET's head, and OPTIONS by the methods of the path."""

    def __init__(self, app: ASGIApp, paths: Paths) -> None:
        self._app = app
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"] if scope["type"] == "http" else None
        if method == "HEAD":
            # A copy: the server must still see HEAD, so that it frames the response as its answer.
            await self._app({**scope, "method": "GET"}, receive, _without_body(send))
        elif method == "OPTIONS" and (methods := self._methods(scope["path"])):
            response = Response(status_code=204, headers={"allow": ", ".join(methods)})
            await response(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _methods(self, path: str) -> list[str]:
        return ["GET", "HEAD", "OPTIONS", "POST"] if path == "*" else self._paths.methods_of(path)


def _without_body(send: Send) -> Send:
    async def send_head(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return send_head
