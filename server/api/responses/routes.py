"""POST /v1/responses, its count of tokens, and the addresses of stored responses.

Nothing is stored, so those addresses answer 404 with the reason.
"""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from server.api.chat.fitted_request import fitted
from server.api.chat.format import ChatPrompt
from server.api.generation_service import GenerationService
from server.api.http.answering import answer, prepared_chat, source, timeout_seconds
from server.api.http.json_bodies.json_body import LargeBodyRoute
from server.api.http.json_bodies.json_response import json_response
from server.api.http.middleware.request_id import adopt_request_id
from server.api.http.routes.openapi import error_responses, event_responses, json_responses
from server.api.http.sse import NamedEventStream
from server.api.requests.field_names import fields_named
from server.api.requests.generation import GenerateRequest
from server.api.responses.event_bodies import EVENTS
from server.api.responses.rendering import ResponseRenderer
from server.api.responses.request_body import InputBody, ResponsesBody
from server.api.responses.response_bodies import InputTokenCount, ResponseBody
from server.errors import ApiError, ErrorKind

# How this protocol spells what the service's errors name.
_NAMES = {
    "max_tokens": "max_output_tokens",
    "logprobs": "top_logprobs",
    "messages": "input",
    "prompt": "input",
}
_STORED = "/v1/responses/{response_id}"


def responses_router(service: GenerationService, *, write_timeout_seconds: float) -> APIRouter:
    router = APIRouter(route_class=LargeBodyRoute, default_response_class=Response)

    @router.post(
        "/v1/responses",
        summary="Answer input items",
        responses=event_responses(ResponseBody, EVENTS),
    )
    async def create_response(body: ResponsesBody, request: Request) -> Response:
        body.check_supported()
        with fields_named(_NAMES):
            conversation = await asyncio.to_thread(body.conversation)
            # The body lasts as long as its answer, which needs no input.
            body.input.clear()
            prompt = await prepared_chat(service, conversation, request)
            del conversation
            return await answer(
                service,
                [_generate_request(body, prompt, request)],
                lambda group: ResponseRenderer(body, group, prompt),
                request,
                stream=bool(body.stream),
                write_timeout_seconds=write_timeout_seconds,
                events=NamedEventStream,
            )

    @router.post(
        "/v1/responses/input_tokens",
        summary="Count the tokens of input items",
        responses=json_responses(InputTokenCount),
    )
    async def count_input_tokens(body: InputBody) -> Response:
        body.check_supported()
        with fields_named(_NAMES):
            service.models.find(body.model)
            conversation = await asyncio.to_thread(body.conversation)
            num_tokens = await service.count_chat_tokens(conversation)
        return json_response(InputTokenCount(input_tokens=num_tokens))

    _add_stored(router)
    return router


def _add_stored(router: APIRouter) -> None:
    """Clients that look for a stored response are answered with the reason why there is none."""

    async def not_stored(response_id: str) -> Response:
        raise ApiError(
            ErrorKind.NOT_FOUND,
            f"there is no response {response_id[:64]!r}: this server stores no responses, so send"
            " all earlier items in input",
        )

    async def not_compacted() -> Response:
        raise ApiError(
            ErrorKind.NOT_FOUND,
            "this server compacts no responses; cut or summarize the earlier items, and send them"
            " in input",
        )

    router.add_api_route(
        "/v1/responses/compact", not_compacted, methods=["POST"], include_in_schema=False
    )
    for method, path, summary in (
        ("GET", _STORED, "A stored response: always 404"),
        ("DELETE", _STORED, "Delete a stored response: always 404"),
        ("POST", f"{_STORED}/cancel", "Cancel a background response: always 404"),
        ("GET", f"{_STORED}/input_items", "A stored response's input: always 404"),
    ):
        router.add_api_route(
            path, not_stored, methods=[method], summary=summary, responses=error_responses()
        )


def _generate_request(body: ResponsesBody, prompt: ChatPrompt, request: Request) -> GenerateRequest:
    """The service request, with the rendered conversation as its prompt."""
    unfitted = GenerateRequest(
        prompt=prompt.text,
        model=body.model,
        sampling=body.sampling(),
        add_special_tokens=False,
        request_id=adopt_request_id(request, body.request_id),
        timeout_seconds=timeout_seconds(request),
        source=source(request),
        grammar_asked_as="text.format",
    )
    return fitted(unfitted, prompt)
