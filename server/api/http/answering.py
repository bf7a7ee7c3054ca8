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

from server.api.access.call import current_call
from server.api.chat.format import ChatPrompt, Conversation
from server.api.generation_service import GenerationService
from server.api.http.disconnect import until_disconnect
from server.api.http.json_bodies.json_response import json_response
from server.api.http.sse import Chunks, EventStream
from server.api.requests.generation import Delta, GenerateRequest
from server.api.requests.source import source_of
from server.api.streams.generation_group import GenerationGroup


class Renderer(Chunks, Protocol):
    """An endpoint's wording of an answer, as a whole or in chunks."""

    def whole(self, answers: list[list[Delta]]) -> msgspec.Struct:
        """The whole answer, from each prompt's finished choices."""


async def answer[R: Renderer](
    service: GenerationService,
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
                request.state.usage = group.usage
                return await service.large_work.run(
                    group.num_entries, lambda: json_response(wording(group).whole(answers))
                )
    return events(group, wording(group), write_timeout_seconds=write_timeout_seconds)


async def prepared_chat(
    service: GenerationService,
    conversation: Conversation,
    request: Request,
    prompt_token_ids: Sequence[int] | None = None,
) -> ChatPrompt:
    """The prompt of a conversation. If the client disconnects, no more of its images are read.

    `prompt_token_ids` is the prompt of a stream that is resumed.
    """
    async with until_disconnect(request.receive):
        return await service.prepare_chat(conversation, prompt_token_ids)


def source(request: Request) -> str:
    """Who sent the request, for taking turns."""
    address, call = request.client.host if request.client else "", current_call()
    return source_of(
        request.headers, address, caller=call.caller_name, trusts_ids=call.trusts_headers
    )


def timeout_seconds(request: Request) -> float | None:
    """The seconds left of the caller's or the gateway's deadline, if one of them sends it."""
    return current_call().objectives.timeout_seconds
