"""POST /v1/completions: takes prompts in OpenAI's four forms, answers whole or as events."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from fastapi import APIRouter, Request
from msgspec import UNSET, UnsetType
from starlette.responses import Response

from server.api.generation_service import GenerationService
from server.api.http.answering import answer, source, timeout_seconds
from server.api.http.json_bodies.json_body import LargeBodyRoute
from server.api.http.json_bodies.json_response import finite
from server.api.http.middleware.request_id import adopt_request_id
from server.api.http.routes.openapi import generation_responses
from server.api.openai.answering import head, prompt_logprobs, usage_body
from server.api.openai.bodies.field_types import REST_OF_CONTEXT
from server.api.openai.bodies.request_bodies import CHAT_FIELDS, CompletionBody
from server.api.openai.bodies.response_bodies import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    PromptLogprobs,
    UsageBody,
)
from server.api.requests.field_names import fields_named
from server.api.requests.generation import Delta, GenerateRequest, TokenLogprob
from server.api.requests.validation import invalid
from server.api.streams.generation import Generation
from server.api.streams.generation_group import GenerationGroup

DEFAULT_MAX_TOKENS = 16


def completions_router(service: GenerationService, *, write_timeout_seconds: float) -> APIRouter:
    router = APIRouter(route_class=LargeBodyRoute)

    @router.post(
        "/v1/completions",
        summary="Continue prompts",
        responses=generation_responses(Completion, Completion),
        response_class=Response,
    )
    async def create_completion(body: CompletionBody, request: Request) -> Response:
        service.check_num_prompts(body.num_prompts)
        with fields_named(body.asked_names()):
            requests = generate_requests(body, request)
            includes_usage = body.read_includes_usage()
            return await answer(
                service,
                requests,
                lambda group: CompletionRenderer(body, group, includes_usage=includes_usage),
                request,
                stream=bool(body.stream),
                write_timeout_seconds=write_timeout_seconds,
            )

    return router


def generate_requests(body: CompletionBody, request: Request) -> list[GenerateRequest]:
    """One service request per prompt."""
    body.check_supported(CHAT_FIELDS)
    sampling = body.sampling(max_tokens=body.max_tokens, logprobs=body.logprobs)
    if body.echo and body.logprobs is not None and body.prompt_logprobs is None:
        sampling = replace(sampling, prompt_logprobs=body.logprobs)
    request_id = adopt_request_id(request, body.request_id)
    prompts, resume = body.prompts, body.read_resume()
    if resume is not None and len(prompts) != 1:
        raise invalid("resume takes one prompt", "resume")
    timeout, sender = timeout_seconds(request), source(request)
    return [
        GenerateRequest(
            prompt=prompt,
            model=body.model,
            sampling=sampling,
            n=1 if body.n is None else body.n,
            add_special_tokens=body.add_special_tokens is not False,
            truncate_prompt_tokens=body.truncate_prompt_tokens,
            default_max_tokens=None if body.max_tokens == REST_OF_CONTEXT else DEFAULT_MAX_TOKENS,
            resume=resume,
            request_id=request_id,
            timeout_seconds=timeout,
            source=sender,
            grammar_asked_as=body.grammar_asked_as,
        )
        for prompt in prompts
    ]


class CompletionRenderer:
    """Numbers the choices through all prompts, with `n` choices per prompt."""

    def __init__(
        self, body: CompletionBody, group: GenerationGroup, *, includes_usage: bool
    ) -> None:
        self._group = group
        self._body = body
        self._head = head("cmpl", group.first_started)
        self._counts_chunks = body.read_counts_chunks()
        self._includes_usage = includes_usage
        self._writers: dict[tuple[int, int], _ChoiceWriter] = {}

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
            if _has_content(choice):
                yield Completion(**self._head, choices=[choice], usage=self._chunk_usage)

    @property
    def _chunk_usage(self) -> UsageBody | UnsetType | None:
        """The counts of a chunk: null where only the last chunk has them."""
        if self._counts_chunks:
            return usage_body(self._group.usage)
        return None if self._includes_usage else UNSET

    def closing(self) -> Iterable[Completion]:
        if not self._includes_usage:
            return []
        return [Completion(**self._head, choices=[], usage=usage_body(self._group.usage))]

    def _choice(self, position: int, delta: Delta) -> CompletionChoice:
        """A prompt's facts are known when its first delta comes, not before."""
        key = position, delta.index
        if key not in self._writers:
            generation = self._group.generations[position]
            self._writers[key] = _ChoiceWriter(self._body, generation, *key)
        return self._writers[key].write(delta)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opening:
    """A choice's part about its prompt, sent once. `logprobs` starts with the unscored token."""

    text: str = ""
    first_token: str = ""
    logprobs: tuple[TokenLogprob | None, ...] = ()
    prompt_token_ids: list[int] | UnsetType = UNSET
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


class _ChoiceWriter:
    """Writes the deltas of one choice; the first delta includes the opening."""

    def __init__(
        self, body: CompletionBody, generation: Generation, position: int, index: int
    ) -> None:
        self._returns_ids = bool(body.return_token_ids)
        self._index = position * generation.request.n + index
        self._seed = generation.seed
        self._opening = _Opening() if body.resume else _opening(body, generation)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._offset = 0
        for token_id in _sent_token_ids(body, generation, index):
            self._offset += len(self._decoder.decode(generation.token_bytes(token_id)))

    def write(self, delta: Delta) -> CompletionChoice:
        opening, self._opening = self._opening, _Opening()
        logprobs = None if delta.logprobs is None else [*opening.logprobs, *delta.logprobs]
        return CompletionChoice(
            index=self._index,
            text=opening.text + delta.text,
            logprobs=None if logprobs is None else self._logprobs(logprobs, opening.first_token),
            finish_reason=delta.finish_reason,
            stop_reason=delta.stop_reason,
            seed=self._seed,
            token_ids=delta.token_ids if self._returns_ids else UNSET,
            prompt_token_ids=opening.prompt_token_ids,
            prompt_logprobs=opening.prompt_logprobs,
        )

    def _logprobs(
        self, entries: Sequence[TokenLogprob | None], first_token: str
    ) -> CompletionLogprobs:
        """OpenAI's parallel lists. Offsets into the text continue from one call to the next."""
        return CompletionLogprobs(
            tokens=[first_token if entry is None else entry.token for entry in entries],
            token_logprobs=[None if entry is None else finite(entry.logprob) for entry in entries],
            top_logprobs=[None if entry is None else _top(entry) for entry in entries],
            text_offset=[self._advance(entry, first_token) for entry in entries],
        )

    def _advance(self, entry: TokenLogprob | None, first_token: str) -> int:
        offset = self._offset
        data = first_token.encode() if entry is None else entry.token_bytes
        self._offset += len(self._decoder.decode(data))
        return offset


def _opening(body: CompletionBody, generation: Generation) -> _Opening:
    prompt_token_ids = generation.prompt_token_ids
    echoes_logprobs = bool(body.echo) and body.logprobs is not None
    return _Opening(
        text=generation.prompt_text if body.echo else "",
        first_token=generation.token_text(prompt_token_ids[0]),
        logprobs=generation.prompt_logprobs or () if echoes_logprobs else (),
        prompt_token_ids=list(prompt_token_ids) if body.return_token_ids else UNSET,
        prompt_logprobs=UNSET if body.prompt_logprobs is None else prompt_logprobs(generation),
    )


def _sent_token_ids(body: CompletionBody, generation: Generation, index: int) -> tuple[int, ...]:
    """The tokens whose log probabilities the stream sent before it was resumed on this server."""
    if generation.request.resume is None:
        return ()
    is_echoed = body.echo and body.logprobs is not None
    prompt = generation.prompt_token_ids if is_echoed else ()
    return prompt + generation.received_token_ids(index)


def _has_content(choice: CompletionChoice) -> bool:
    """False for a delta with nothing to send, because all of its text is held back."""
    extras = choice.logprobs or choice.token_ids or choice.prompt_logprobs
    return bool(choice.text or choice.finish_reason or extras)


def _top(entry: TokenLogprob) -> dict[str, float]:
    """The token and its alternatives; of alternatives with the same text, the likeliest stays."""
    top: dict[str, float] = {}
    for candidate in (entry, *entry.top):
        top.setdefault(candidate.token, finite(candidate.logprob))
    return top
