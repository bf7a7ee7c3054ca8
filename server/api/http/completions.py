"""POST /v1/completions: prompts in any of OpenAI's four forms, answered whole or as events."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from fastapi import APIRouter, Request
from msgspec import UNSET, UnsetType
from starlette.responses import Response

from server.api.generation import Delta, GenerateRequest, TokenLogprob
from server.api.http.answers import (
    answer,
    finite,
    head,
    prompt_logprobs,
    timeout_seconds,
    usage_body,
)
from server.api.http.middleware import adopt_request_id
from server.api.http.openapi import generation_responses
from server.api.http.requests import CompletionBody
from server.api.http.responses import Completion, CompletionChoice, CompletionLogprobs
from server.api.service import Service
from server.api.stream import Generation, GenerationGroup

DEFAULT_MAX_TOKENS = 16


def completions_router(service: Service, *, write_timeout_seconds: float) -> APIRouter:
    router = APIRouter()

    @router.post(
        "/v1/completions",
        summary="Continue prompts",
        responses=generation_responses(Completion, Completion),
        response_class=Response,
    )
    async def create_completion(body: CompletionBody, request: Request) -> Response:
        requests = generate_requests(body, request)
        includes_usage = body.includes_usage
        return await answer(
            service,
            requests,
            lambda group: CompletionWording(body, group, includes_usage=includes_usage),
            request,
            stream=bool(body.stream),
            write_timeout_seconds=write_timeout_seconds,
        )

    return router


def generate_requests(body: CompletionBody, request: Request) -> list[GenerateRequest]:
    """One service request for each prompt."""
    body.check_supported()
    sampling = body.sampling(max_tokens=body.max_tokens, logprobs=body.logprobs)
    if body.echo and body.logprobs is not None and body.prompt_logprobs is None:
        sampling = replace(sampling, prompt_logprobs=body.logprobs)
    request_id = adopt_request_id(request, body.request_id)
    return [
        GenerateRequest(
            prompt=prompt,
            model=body.model,
            sampling=sampling,
            n=1 if body.n is None else body.n,
            default_max_tokens=DEFAULT_MAX_TOKENS,
            request_id=request_id,
            timeout_seconds=timeout_seconds(request),
        )
        for prompt in body.prompts
    ]


class CompletionWording:
    """Choices are numbered through all prompts, `n` for each."""

    def __init__(
        self, body: CompletionBody, group: GenerationGroup, *, includes_usage: bool
    ) -> None:
        self._body = body
        self._group = group
        self._head = head("cmpl", group.generations[0])
        self._chunk_usage: UnsetType | None = None if includes_usage else UNSET
        self._includes_usage = includes_usage
        self._logprobs: dict[tuple[int, int], _LogprobsWriter] = {}

    def whole(self, answers: list[list[Delta]]) -> Completion:
        taken = [(position, delta) for position, deltas in enumerate(answers) for delta in deltas]
        return Completion(
            **self._head,
            choices=[self._choice(position, delta) for position, delta in taken],
            usage=usage_body(self._group.usage),
        )

    def chunks(self, taken: list[tuple[int, Delta]]) -> Iterator[Completion]:
        for position, delta in taken:
            choice = self._choice(position, delta)
            if choice.text or choice.finish_reason or choice.token_ids or choice.logprobs:
                yield Completion(**self._head, choices=[choice], usage=self._chunk_usage)

    def closing(self) -> Iterable[Completion]:
        if not self._includes_usage:
            return []
        return [Completion(**self._head, choices=[], usage=usage_body(self._group.usage))]

    def _choice(self, position: int, delta: Delta) -> CompletionChoice:
        generation = self._group.generations[position]
        is_first = (position, delta.index) not in self._logprobs
        writer = self._logprobs.setdefault((position, delta.index), _LogprobsWriter())
        echoes = is_first and bool(self._body.echo)
        echoed = generation.prompt_text if echoes else ""
        returns_ids = bool(self._body.return_token_ids)
        return CompletionChoice(
            index=position * generation.request.n + delta.index,
            text=echoed + delta.text,
            logprobs=self._logprobs_of(writer, generation, delta, echoes=echoes),
            finish_reason=delta.finish_reason,
            stop_reason=delta.stop_reason,
            seed=generation.seed,
            token_ids=delta.token_ids if returns_ids else UNSET,
            prompt_token_ids=list(generation.prompt_token_ids)
            if returns_ids and is_first
            else UNSET,
            prompt_logprobs=prompt_logprobs(generation)
            if is_first and self._body.prompt_logprobs is not None
            else UNSET,
        )

    def _logprobs_of(
        self, writer: _LogprobsWriter, generation: Generation, delta: Delta, *, echoes: bool
    ) -> CompletionLogprobs | None:
        if delta.logprobs is None:
            return None
        entries: list[TokenLogprob | None] = list(delta.logprobs)
        if not echoes or generation.prompt_logprobs is None:
            return writer.write(entries, "")
        first_token = self._first_prompt_token(generation)
        return writer.write([*generation.prompt_logprobs, *entries], first_token)

    def _first_prompt_token(self, generation: Generation) -> str:
        """Its text, which no log probability carries."""
        return generation.token_text(generation.prompt_token_ids[0])


class _LogprobsWriter:
    """OpenAI's parallel lists for one choice; offsets go on from one call to the next."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._offset = 0

    def write(
        self, entries: Sequence[TokenLogprob | None], unscored_token: str
    ) -> CompletionLogprobs:
        """An entry None, the first of an echoed prompt, stands for `unscored_token`."""
        return CompletionLogprobs(
            tokens=[unscored_token if entry is None else entry.token for entry in entries],
            token_logprobs=[None if entry is None else finite(entry.logprob) for entry in entries],
            top_logprobs=[None if entry is None else _top(entry) for entry in entries],
            text_offset=[self._advance(entry, unscored_token) for entry in entries],
        )

    def _advance(self, entry: TokenLogprob | None, unscored_token: str) -> int:
        offset = self._offset
        data = unscored_token.encode() if entry is None else entry.token_bytes
        self._offset += len(self._decoder.decode(data))
        return offset


def _top(entry: TokenLogprob) -> dict[str, float]:
    """The token and its alternatives; of those that read the same the likeliest stays."""
    top: dict[str, float] = {}
    for candidate in (entry, *entry.top):
        top.setdefault(candidate.token, finite(candidate.logprob))
    return top
