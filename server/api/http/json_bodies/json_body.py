"""Routes whose large JSON bodies are decoded in a thread, in place of the event loop.

Knows no endpoint, and leaves to `json_decoding` what a body may hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from server.api.http.json_bodies.json_decoding import decode
from server.api.large_work import LARGE_BYTES, decode_large

# Up to this size, decoding and validating takes a few milliseconds whatever the body holds.
MAX_INLINE_BYTES = 1 << 14

type Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class LargeBodyRoute(APIRoute):
    """A route whose large bodies are decoded by this module, and small ones by FastAPI."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def handle_large(request: Request) -> Response:
            return await handle(_Request(request.scope, request.receive))

        return handle_large


class _Request(Request):
    async def json(self) -> Any:
        body = await self.body()
        if len(body) <= MAX_INLINE_BYTES:
            return await super().json()
        # An answer may last for minutes, and its request with it.
        self._body = b""
        if len(body) > LARGE_BYTES:
            return await decode_large(partial(decode, body))
        return await asyncio.to_thread(decode, body)
