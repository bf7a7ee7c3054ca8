"""The server's load as a header of every answer to a POST, so also of errors and of streams.

A client may ask for another form by a header of its request. A stream's header is sent before its
tokens, so it has no cost of the request. Knows ASGI, but not what a report says.
"""

from __future__ import annotations

from typing import Literal, cast, get_args

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.load_reports import Format, LoadReports

# ORCA's name, and the name that Google's load balancers read.
NAMES = ("endpoint-load-metrics", "x-endpoint-load-metrics")
FORMAT_HEADER = "endpoint-load-metrics-format"
type Setting = Literal["json", "text", "bin", "none"]
_FORMATS = get_args(Format.__value__)


class LoadHeaderMiddleware:
    """`setting` is the form for requests that ask for none; "none" sends none to these."""

    def __init__(self, app: ASGIApp, loads: LoadReports, setting: Setting) -> None:
        self._app, self._loads, self._setting = app, loads, setting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        form = self._form(scope)
        if form == "none":
            await self._app(scope, receive, send)
            return

        async def send_with_load(message: Message) -> None:
            if message["type"] == "http.response.start":
                usage = scope.get("state", {}).get("usage")
                if value := self._loads.header(form, usage):
                    headers = MutableHeaders(scope=message)
                    for name in NAMES:
                        headers[name] = value
            await send(message)

        await self._app(scope, receive, send_with_load)

    def _form(self, scope: Scope) -> Setting:
        if scope["type"] != "http" or scope["method"] != "POST":
            return "none"
        asked = Headers(scope=scope).get(FORMAT_HEADER, "").strip().lower()
        return cast(Format, asked) if asked in _FORMATS else self._setting
