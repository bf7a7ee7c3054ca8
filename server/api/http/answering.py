"""The order of events between a request that has been read and a response that is complete.

Every protocol that generates starts, waits or streams, and ends this way. Knows ASGI and the
service, but no protocol: each words its own answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
from fastapi import Request
from starlette.responses import Response

from server.api.http.bodies import json_response
from server.api.http.disconnect import until_disconnect
from server.api.http.sse import Chunks, EventStream
from server.api.requests.generation import Delta, GenerateRequest
from server.api.requests.source import source_of
from server.api.service import Service
from server.api.streams.stream import GenerationGroup

MAX_TIMEOUT_DIGITS = 9


class Renderer(Chunks, Protocol):
    """An endpoint's wording of an answer, as a whole or in chunks."""

    def whole(self, answers: list[list[Delta]]) -> msgspec.Struct:
        """The whole answer, from each prompt's finished choices."""


async def answer[R: Renderer](
    service: Service,
    requests: Sequence[GenerateRequest],
    wording: Callable[[GenerationGroup], R],
    request: Request,
    *,
    stream: bool,
    write_timeout_seconds: float,
    events: Callable[..., EventStream] = EventStream,
) -> Response:
    """Generate and respond. If the client disconnects, its request is aborted.

    `events` is how the protocol frames its chunks; it takes what `EventStream` takes.
    """
    async with until_disconnect(request.receive):
        group = await service.start_group(requests)
        if not stream:
            async with group:
                answers = await group.finish()
                return await service.large_work.run(
                    group.num_entries, lambda: json_response(wording(group).whole(answers))
                )
    return events(group, wording(group), write_timeout_seconds=write_timeout_seconds)


def source(request: Request) -> str:
    """Who sent the request, for taking turns."""
    return source_of(request.headers, request.client.host if request.client else "")


def timeout_seconds(request: Request) -> float | None:
    """The seconds left of the gateway's deadline, if the gateway sends it (Envoy's header)."""
    value = request.headers.get("x-envoy-expected-rq-timeout-ms", "")
    is_number = value.isascii() and value.isdecimal() and len(value) <= MAX_TIMEOUT_DIGITS
    # Envoy sends 0 where there is no deadline.
    return int(value) / 1000 if is_number and int(value) else None
