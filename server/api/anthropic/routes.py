"""POST /v1/messages, its count of tokens, and the addresses of batches, which there are none of."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from server.api.anthropic.errors import PATH
from server.api.anthropic.rendering import MessageRenderer
from server.api.anthropic.request_body import MessagesBody, PromptBody
from server.api.anthropic.response_bodies import EVENTS, MessageAnswer, MessageError, TokenCount
from server.api.chat.fitted_request import fitted
from server.api.chat.format import ChatPrompt
from server.api.generation_service import GenerationService
from server.api.http.answering import answer, prepared_chat, source, timeout_seconds
from server.api.http.json_bodies.json_body import LargeBodyRoute
from server.api.http.json_bodies.json_response import json_response
from server.api.http.middleware.request_id import adopt_request_id
from server.api.http.routes.openapi import event_responses, json_responses
from server.api.http.sse import NamedEventStream
from server.api.requests.field_names import fields_named
from server.api.requests.generation import GenerateRequest
from server.errors import ApiError, ErrorKind

_BATCHES = f"{PATH}/batches"
# How this protocol spells what the service's errors name.
_NAMES = {"stop": "stop_sequences", "prompt": "messages"}


def messages_router(service: GenerationService, *, write_timeout_seconds: float) -> APIRouter:
    router = APIRouter(route_class=LargeBodyRoute, default_response_class=Response)

    @router.post(
        PATH,
        summary="Answer messages, as Anthropic's API",
        responses=event_responses(MessageAnswer, EVENTS, MessageError),
    )
    async def create_message(body: MessagesBody, request: Request) -> Response:
        body.check_supported()
        with fields_named(_NAMES):
            conversation = await asyncio.to_thread(body.conversation)
            # The body lasts as long as its answer, which needs no messages.
            body.messages.clear()
            prompt = await prepared_chat(service, conversation, request)
            del conversation
            return await answer(
                service,
                [_generate_request(body, prompt, request)],
                lambda group: MessageRenderer(group, prompt, shows_thinking=body.shows_thinking),
                request,
                stream=bool(body.stream),
                write_timeout_seconds=write_timeout_seconds,
                events=NamedEventStream,
            )

    @router.post(
        f"{PATH}/count_tokens",
        summary="Count the tokens of messages",
        responses=json_responses(TokenCount, MessageError),
    )
    async def count_tokens(body: PromptBody) -> Response:
        body.check_supported()
        service.models.find(body.model)
        conversation = await asyncio.to_thread(body.conversation)
        return json_response(TokenCount(await service.count_chat_tokens(conversation)))

    _add_batches(router)
    return router


def _add_batches(router: APIRouter) -> None:
    """Clients that ask for a batch are answered with the reason why there is none."""

    async def no_batches(rest: str = "") -> Response:
        raise ApiError(
            ErrorKind.NOT_FOUND,
            "this server has no batches, because it stores no answers; send each request of the"
            f" batch to {PATH}, several at once",
        )

    for path in (_BATCHES, f"{_BATCHES}/{{rest:path}}"):
        methods = ["GET", "POST", "DELETE"]
        router.add_api_route(path, no_batches, methods=methods, include_in_schema=False)


def _generate_request(body: MessagesBody, prompt: ChatPrompt, request: Request) -> GenerateRequest:
    """The service request, with the rendered conversation as its prompt."""
    unfitted = GenerateRequest(
        prompt=prompt.text,
        model=body.model,
        sampling=body.sampling(),
        add_special_tokens=False,
        request_id=adopt_request_id(request, None),
        timeout_seconds=timeout_seconds(request),
        source=source(request),
        grammar_asked_as=body.format_field,
    )
    return fitted(unfitted, prompt)
