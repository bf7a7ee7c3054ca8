"""The responses in the OpenAPI document, made from the structs that are encoded.

FastAPI describes the requests. This module names the struct of each response and adds the structs'
schemas. Making the document takes a tenth of a second of computing, so it is made once, by the
first who asks, in a thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from starlette.responses import Response

from server.api.http.json_bodies.json_response import ErrorBody

_REF = "#/components/schemas/{name}"
type Responses = dict[int | str, dict[str, Any]]


def json_responses(
    body: type[msgspec.Struct], error: type[msgspec.Struct] = ErrorBody
) -> Responses:
    """The responses of an endpoint that sends `body` or an error."""
    answer = {"description": "The answer.", "content": json_content(body)}
    return {200: answer, **error_responses(error)}


def generation_responses(whole: type[msgspec.Struct], chunk: type[msgspec.Struct]) -> Responses:
    """The responses of an endpoint that answers whole or, with `stream`, as server-sent events."""
    document = json_responses(whole)
    document[200]["description"] = (
        f"The answer; with `stream`, events whose data is a {chunk.__name__} or an error, then "
        "`[DONE]`."
    )
    document[200]["content"]["text/event-stream"] = {"schema": _event(chunk)}
    return document


def event_responses(
    whole: type[msgspec.Struct],
    events: Sequence[type[msgspec.Struct]],
    error: type[msgspec.Struct] = ErrorBody,
) -> Responses:
    """The responses of an endpoint that answers whole or, with `stream`, as events with names."""
    document = json_responses(whole, error)
    document[200]["description"] = "The answer; with `stream`, events, each with its name."
    data = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"anyOf": [_reference(event) for event in events]},
    }
    names = [event.__struct_config__.tag for event in events]
    properties = {"event": {"type": "string", "enum": names}, "data": data}
    schema = {"type": "object", "required": ["event", "data"], "properties": properties}
    document[200]["content"]["text/event-stream"] = {"schema": schema}
    return document


def text_responses(media_type: str) -> Responses:
    content = {media_type: {"schema": {"type": "string"}}}
    return {200: {"description": "The text.", "content": content}}


def describe(app: FastAPI, bodies: Iterable[type[msgspec.Struct]]) -> None:
    """Have `app` send the complete document, with the schemas of `bodies`."""
    url, making = app.openapi_url, threading.Lock()
    assert url is not None

    def openapi() -> dict[str, Any]:
        with making:
            if app.openapi_schema is None:
                app.openapi_schema = _document(app, bodies)
        return app.openapi_schema

    def encoded() -> bytes:
        return msgspec.json.encode(openapi())

    async def send(_: Request) -> Response:
        return Response(await asyncio.to_thread(encoded), media_type="application/json")

    app.openapi = openapi  # type: ignore[method-assign]
    # FastAPI's own route would make the document on the event loop.
    app.router.routes = [each for each in app.routes if getattr(each, "path", "") != url]
    app.add_route(url, send, include_in_schema=False)


def _document(app: FastAPI, bodies: Iterable[type[msgspec.Struct]]) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    _, components = msgspec.json.schema_components((*bodies, ErrorBody), ref_template=_REF)
    document.setdefault("components", {}).setdefault("schemas", {}).update(components)
    return document


def json_content(body: type[msgspec.Struct]) -> dict[str, Any]:
    return {"application/json": {"schema": _reference(body)}}


def _reference(body: type[msgspec.Struct]) -> dict[str, Any]:
    return {"$ref": _REF.format(name=body.__name__)}


def _event(chunk: type[msgspec.Struct]) -> dict[str, Any]:
    """One server-sent event. Its data is a chunk or an error as JSON, or the end mark."""
    bodies = [_reference(body) for body in (chunk, ErrorBody)]
    document = {"contentMediaType": "application/json", "contentSchema": {"anyOf": bodies}}
    data = {"type": "string", "anyOf": [{"const": "[DONE]"}, document]}
    return {"type": "object", "required": ["data"], "properties": {"data": data}}


def error_responses(error: type[msgspec.Struct] = ErrorBody) -> Responses:
    return {
        "4XX": {
            "description": "The request cannot be served as it is.",
            "content": json_content(error),
        },
        "5XX": {
            "description": "The server cannot serve the request now.",
            "content": json_content(error),
        },
    }
