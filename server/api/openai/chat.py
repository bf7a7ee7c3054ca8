"""POST /v1/chat/completions: applies the chat template to messages, answers whole or as events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fastapi import APIRouter, Request
from msgspec import UNSET, UnsetType
from starlette.responses import Response

from server.api.generation import Delta, GenerateRequest, TokenLogprob
from server.api.http.middleware import adopt_request_id
from server.api.http.openapi import generation_responses
from server.api.openai.answering import (
    answer,
    finite,
    head,
    prompt_logprobs,
    source,
    timeout_seconds,
    usage_body,
)
from server.api.openai.request_bodies import ChatBody
from server.api.openai.response_bodies import (
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatDelta,
    ChatLogprob,
    ChatLogprobs,
    ChatMessage,
    TopLogprob,
)
from server.api.service import Service
from server.api.stream import GenerationGroup


def chat_router(service: Service, *, write_timeout_seconds: float) -> APIRouter:
    router = APIRouter()

    @router.post(
        "/v1/chat/completions",
        summary="Answer a conversation",
        responses=generation_responses(ChatCompletion, ChatCompletionChunk),
        response_class=Response,
    )
    async def create_chat_completion(body: ChatBody, request: Request) -> Response:
        includes_usage = body.read_includes_usage()
        generate = await generate_request(service, body, request)
        return await answer(
            service,
            [generate],
            lambda group: ChatRenderer(body, group, includes_usage=includes_usage),
            request,
            stream=bool(body.stream),
            write_timeout_seconds=write_timeout_seconds,
        )

    return router


async def generate_request(service: Service, body: ChatBody, request: Request) -> GenerateRequest:
    """The service request, with the rendered conversation as its prompt."""
    body.check_supported()
    max_tokens = (
        body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    )
    sampling = body.sampling(max_tokens=max_tokens, logprobs=body.read_num_logprobs())
    request_id = adopt_request_id(request, body.request_id)
    resume = body.read_resume()
    return GenerateRequest(
        prompt=await _prompt(service, body),
        model=body.model,
        sampling=sampling,
        n=1 if body.n is None else body.n,
        add_special_tokens=False,
        resume=resume,
        request_id=request_id,
        timeout_seconds=timeout_seconds(request),
        source=source(request),
        grammar_asked_as=body.grammar_asked_as,
    )


async def _prompt(service: Service, body: ChatBody) -> str | tuple[int, ...]:
    """The prompt. A resumed stream brings its own token ids: a template may read the clock."""
    if body.resume is not None and body.resume.prompt_token_ids is not None:
        return tuple(body.resume.prompt_token_ids)
    messages = [message.for_template() for message in body.messages]
    return await service.render_chat(messages, **body.render_options)


class ChatRenderer:
    """One prompt. Each choice's first chunk has the role; the response's first has the prompt."""

    def __init__(self, body: ChatBody, group: GenerationGroup, *, includes_usage: bool) -> None:
        self._group = group
        self._generation = group.generations[0]
        self._head = head("chatcmpl", self._generation)
        self._returns_ids = bool(body.return_token_ids)
        self._includes_usage = includes_usage
        self._chunk_usage: UnsetType | None = None if includes_usage else UNSET
        self._begun = {
            index
            for index in range(self._generation.request.n)
            if self._generation.received_token_ids(index)
        }

    def whole(self, answers: list[list[Delta]]) -> ChatCompletion:
        return ChatCompletion(
            **self._head,
            choices=[self._choice(delta) for delta in answers[0]],
            usage=usage_body(self._group.usage),
            prompt_token_ids=self._prompt_token_ids(),
            prompt_logprobs=prompt_logprobs(self._generation),
        )

    def chunks(self, taken: list[tuple[int, Delta]]) -> Iterator[ChatCompletionChunk]:
        for _, delta in taken:
            if delta.index not in self._begun:
                yield self._opening(delta.index)
            if delta.text or delta.finish_reason or delta.logprobs or self._returns_ids:
                yield self._chunk(self._chunk_choice(delta))

    def closing(self) -> Iterable[ChatCompletionChunk]:
        if not self._includes_usage:
            return []
        usage = usage_body(self._group.usage)
        return [ChatCompletionChunk(**self._head, choices=[], usage=usage)]

    def _opening(self, index: int) -> ChatCompletionChunk:
        is_first = not self._begun
        self._begun.add(index)
        choice = ChatChunkChoice(index=index, delta=ChatDelta(content="", role="assistant"))
        return ChatCompletionChunk(
            **self._head,
            choices=[choice],
            usage=self._chunk_usage,
            prompt_token_ids=self._prompt_token_ids() if is_first else UNSET,
            prompt_logprobs=prompt_logprobs(self._generation) if is_first else UNSET,
        )

    def _chunk(self, choice: ChatChunkChoice) -> ChatCompletionChunk:
        return ChatCompletionChunk(**self._head, choices=[choice], usage=self._chunk_usage)

    def _chunk_choice(self, delta: Delta) -> ChatChunkChoice:
        return ChatChunkChoice(
            index=delta.index,
            delta=ChatDelta(content=delta.text) if delta.text else ChatDelta(),
            logprobs=_logprobs(delta.logprobs),
            finish_reason=delta.finish_reason,
            stop_reason=delta.stop_reason if delta.finish_reason else UNSET,
            token_ids=delta.token_ids if self._returns_ids else UNSET,
        )

    def _choice(self, delta: Delta) -> ChatChoice:
        return ChatChoice(
            index=delta.index,
            message=ChatMessage(delta.text),
            logprobs=_logprobs(delta.logprobs),
            finish_reason=delta.finish_reason or "error",
            stop_reason=delta.stop_reason,
            token_ids=delta.token_ids if self._returns_ids else UNSET,
        )

    def _prompt_token_ids(self) -> list[int] | UnsetType:
        return list(self._generation.prompt_token_ids) if self._returns_ids else UNSET


def _logprobs(entries: list[TokenLogprob] | None) -> ChatLogprobs | None:
    if entries is None:
        return None
    return ChatLogprobs(
        [
            ChatLogprob(
                token=entry.token,
                logprob=finite(entry.logprob),
                bytes=list(entry.token_bytes),
                top_logprobs=[
                    TopLogprob(c.token, finite(c.logprob), list(c.token_bytes)) for c in entry.top
                ],
            )
            for entry in entries
        ]
    )
