"""Which web pages may call the server from a browser (CORS), by the setting `cors_origins`.

Starlette's middleware decides; this module reads the setting and words the refusals. Pages of a
named origin may send credentials, pages of any origin (`*`) may not. Knows no route.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from server.api.http.errors.error_responses import error_response
from server.config.cors_origins import read_origins
from server.errors import ApiError, ErrorKind

_METHODS = ("GET", "HEAD", "OPTIONS", "POST")
# What pages may read of a response, in addition to what browsers always show.
_EXPOSED = ("x-request-id", "retry-after")


def with_cors(app: ASGIApp, setting: str) -> ASGIApp:
    """`app`, answering browsers for the origins of the setting; `app` itself where it is empty."""
    origins = read_origins(setting)
    return _Cors(app, origins) if origins else app


def refusal_headers(origins: Sequence[str], origin: str) -> list[tuple[bytes, bytes]]:
    """What lets a page of `origin` read a refusal that no application has answered."""
    if not origin or not ({origin, "*"} & {*origins}):
        return []
    allowed = [(b"access-control-allow-origin", b"*")]
    if "*" not in origins:
        allowed = [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-allow-credentials", b"true"),
            (b"vary", b"Origin"),
        ]
    return [*allowed, (b"access-control-expose-headers", ", ".join(_EXPOSED).encode())]


class _Cors(CORSMiddleware):
    """Starlette's middleware with refusals in the shape of every error."""

    def __init__(self, app: ASGIApp, origins: list[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=_METHODS,
            allow_headers=("*",),
            allow_credentials="*" not in origins,
            allow_private_network=True,
            expose_headers=_EXPOSED,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        what = bytes(response.body).decode().removeprefix("Disallowed CORS ")
        refusal = ApiError(
            ErrorKind.INVALID_REQUEST, f"pages of this origin may not do this: {what}"
        )
        headers = {
            name: value
            for name, value in response.headers.items()
            if name.startswith("access-control-") or name == "vary"
        }
        return error_response(refusal, None, **headers)
