"""What an application is told of a request: h11's request as ASGI's scope. Knows no connection."""

from __future__ import annotations

from typing import Any, Protocol
from urllib.parse import unquote

import h11
from uvicorn._types import HTTPScope

from server.api.http.connections.request_reader import path_of


class Connection(Protocol):
    """What uvicorn knows of a connection. Addresses are of a host and a port."""

    asgi_version: Any
    server: tuple[str, int | None] | None
    client: tuple[str, int] | None
    scheme: Any


def scope_of(request: h11.Request, connection: Connection, state: dict[str, Any]) -> HTTPScope:
    raw_path, query = path_of(request.target)
    return {
        "type": "http",
        "asgi": {"version": connection.asgi_version, "spec_version": "2.3"},
        "http_version": request.http_version.decode(),
        "server": connection.server,
        "client": connection.client,
        "scheme": connection.scheme or "http",
        "method": request.method.decode(),
        "root_path": "",
        "path": unquote(raw_path.decode()),
        "raw_path": raw_path,
        "query_string": query,
        "headers": list(request.headers),
        "state": state,
    }


def names(request: h11.Request, header: bytes, token: bytes) -> bool:
    """Whether a header, which is a list and may be there several times, holds `token`."""
    values = b",".join(value for name, value in request.headers if name == header)
    return token in (part.strip() for part in values.lower().split(b","))
