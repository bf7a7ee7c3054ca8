"""POST /v1/chat/completions: applies the chat template to messages, answers whole or as events."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from server.api.chat.fitted_request import fitted
from server.api.chat.format import ChatPrompt
from server.api.generation_service import GenerationService
from server.api.http.answering import answer, prepared_chat, source, timeout_seconds
from server.api.http.json_bodies.json_body import LargeBodyRoute
from server.api.http.middleware.request_id import adopt_request_id
from server.api.http.routes.openapi import generation_responses
from server.api.openai.bodies.request_bodies import COMPLETION_FIELDS, ChatBody
from server.api.openai.bodies.response_bodies import ChatCompletion, ChatCompletionChunk
from server.api.openai.chat_rendering import ChatRenderer
from server.api.requests.field_names import fields_named
from server.api.requests.generation import GenerateRequest


def chat_router(service: GenerationService, *, write_timeout_seconds: float) -> APIRouter:
    router = APIRouter(route_class=LargeBodyRoute)

    @router.post(
        "/v1/chat/completions",
        summary="Answer a conversation",
        responses=generation_responses(ChatCompletion, ChatCompletionChunk),
        response_class=Response,
    )
    async def create_chat_completion(body: ChatBody, request: Request) -> Response:
        includes_usage = body.read_includes_usage()
        body.check_supported(COMPLETION_FIELDS)
        with fields_named(body.asked_names()):
            prompt = await chat_prompt(service, body, request)
            generate = generate_request(body, prompt, request)
            return await answer(
                service,
                [generate],
                lambda group: ChatRenderer(body, group, prompt, includes_usage=includes_usage),
                request,
                stream=bool(body.stream),
                write_timeout_seconds=write_timeout_seconds,
            )

    return router


async def chat_prompt(service: GenerationService, body: ChatBody, request: Request) -> ChatPrompt:
    """The rendered conversation, and how to read its answers."""
    # In a thread, because a body may hold a million messages.
    conversation = await asyncio.to_thread(body.conversation, body.messages)
    # The body lasts as long as its answer, which needs no messages.
    body.messages.clear()
    return await prepared_chat(service, conversation, request, _prompt_of_resumed(body))


def generate_request(body: ChatBody, prompt: ChatPrompt, request: Request) -> GenerateRequest:
    """The service request, with the rendered conversation as its prompt."""
    sampling = body.sampling(max_tokens=body.read_max_tokens(), logprobs=body.read_num_logprobs())
    request_id = adopt_request_id(request, body.request_id)
    resumed = _prompt_of_resumed(body)
    unfitted = GenerateRequest(
        prompt=prompt.text if resumed is None else resumed,
        model=body.model,
        sampling=sampling,
        n=1 if body.n is None else body.n,
        add_special_tokens=bool(body.add_special_tokens),
        truncate_prompt_tokens=body.truncate_prompt_tokens,
        resume=body.read_resume(),
        request_id=request_id,
        timeout_seconds=timeout_seconds(request),
        source=source(request),
        grammar_asked_as=body.grammar_asked_as,
    )
    return fitted(unfitted, prompt)


def _prompt_of_resumed(body: ChatBody) -> tuple[int, ...] | None:
    """A resumed stream brings its prompt's token ids: a template may read the clock."""
    if body.resume is None or body.resume.prompt_token_ids is None:
        return None
    return tuple(body.resume.prompt_token_ids)
