"""The part that both generation endpoints share: start, wait or stream, count, word logprobs.

The endpoints define the shapes of the bodies. This module defines the order of events between a
request that has been read and a response that is complete.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
from fastapi import Request
from starlette.responses import Response

from server.api.generation import Delta, GenerateRequest, TokenLogprob, Usage
from server.api.http.bodies import json_response
from server.api.http.disconnect import until_disconnect
from server.api.http.sse import Chunks, EventStream
from server.api.openai.response_bodies import (
    PromptLogprob,
    PromptLogprobs,
    PromptTokensDetails,
    UsageBody,
)
from server.api.service import Service
from server.api.source import source_of
from server.api.stream import Generation, GenerationGroup

# Replaces the -inf of a token that cannot be drawn, because JSON has no infinity.
LOWEST_LOGPROB = -9999.0
MAX_TIMEOUT_DIGITS = 9


class Renderer(Chunks, Protocol):
    """An endpoint's wording of an answer, as a whole or in chunks."""

    def whole(self, answers: list[list[Delta]]) -> msgspec.Struct:
        """The whole answer, from each prompt's finished choices."""


async def answer(
    service: Service,
    requests: Sequence[GenerateRequest],
    wording: Callable[[GenerationGroup], Renderer],
    request: Request,
    *,
    stream: bool,
    write_timeout_seconds: float,
) -> Response:
    """Generate and respond. If the client disconnects, its request is aborted."""
    async with until_disconnect(request.receive):
        group = await service.start_group(requests)
        if not stream:
            async with group:
                answers = await group.finish()
                return await service.large_work.run(
                    group.num_entries, lambda: json_response(wording(group).whole(answers))
                )
    return EventStream(group, wording(group), write_timeout_seconds=write_timeout_seconds)


def source(request: Request) -> str:
    """Who sent the request, for taking turns."""
    return source_of(request.headers, request.client.host if request.client else "")


def timeout_seconds(request: Request) -> float | None:
    """The seconds left of the gateway's deadline, if the gateway sends it (Envoy's header)."""
    value = request.headers.get("x-envoy-expected-rq-timeout-ms", "")
    is_number = value.isascii() and value.isdecimal() and len(value) <= MAX_TIMEOUT_DIGITS
    # Envoy sends 0 where there is no deadline.
    return int(value) / 1000 if is_number and int(value) else None


def head(prefix: str, generation: Generation) -> dict[str, Any]:
    """The fields of `AnswerHead`; the same for every chunk of a stream."""
    model, version = generation.model, generation.version
    return {
        "id": f"{prefix}-{generation.request.request_id}",
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": fingerprint(model, version),
        "model_version": version,
        "seed": generation.seed,
        "resume_exactness": generation.resume_exactness or msgspec.UNSET,
    }


def fingerprint(model: str, version: str) -> str:
    """A name that changes with the model and its version: the same seed may give other tokens."""
    return "fp_" + hashlib.blake2b(f"{model}@{version}".encode(), digest_size=6).hexdigest()


def usage_body(usage: Usage) -> UsageBody:
    return UsageBody(
        prompt_tokens=usage.num_prompt_tokens,
        completion_tokens=usage.num_generated_tokens,
        total_tokens=usage.num_prompt_tokens + usage.num_generated_tokens,
        prompt_tokens_details=PromptTokensDetails(usage.num_cached_tokens),
    )


def prompt_logprobs(generation: Generation) -> PromptLogprobs | msgspec.UnsetType:
    """The prompt's log probabilities; UNSET unless the request asks for `prompt_logprobs`."""
    if generation.prompt_logprobs is None:
        return msgspec.UNSET
    return [None if entry is None else _candidates(entry) for entry in generation.prompt_logprobs]


def finite(logprob: float) -> float:
    return max(logprob, LOWEST_LOGPROB)


def _candidates(entry: TokenLogprob) -> dict[str, PromptLogprob]:
    candidates = (entry, *entry.top)
    return {str(c.token_id): PromptLogprob(finite(c.logprob), c.token) for c in candidates}
