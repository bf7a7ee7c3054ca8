"""The list of models, and the conversion of text to token ids and back."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, HTTPException
from starlette.responses import Response

from server.api.generation_service import GenerationService
from server.api.http.json_bodies.json_body import LargeBodyRoute
from server.api.http.json_bodies.json_response import json_response
from server.api.http.routes.openapi import json_responses
from server.api.openai.bodies.request_bodies import DetokenizeBody, TokenizeBody
from server.api.openai.bodies.response_bodies import Detokenized, ModelCard, ModelList, Tokenized
from server.api.requests.generation import ModelInfo
from server.api.requests.validation import invalid


def models_router(service: GenerationService) -> APIRouter:
    router = APIRouter(route_class=LargeBodyRoute, default_response_class=Response)
    _add_models(router, service)
    _add_tokens(router, service)
    return router


def _add_models(router: APIRouter, service: GenerationService) -> None:
    @router.get("/v1/models", summary="List models", responses=json_responses(ModelList))
    async def list_models() -> Response:
        models = [*service.models.loaded(), *service.models.adapters()]
        return json_response(ModelList(data=[_card(model) for model in models]))

    @router.get("/v1/models/{model:path}", summary="A model", responses=json_responses(ModelCard))
    async def get_model(model: str) -> Response:
        if not model:
            # With a slash at its end, the list's path names no model.
            raise HTTPException(404)
        return json_response(_card(service.models.find(model)))


def _add_tokens(router: APIRouter, service: GenerationService) -> None:
    @router.post("/tokenize", summary="Text to token ids", responses=json_responses(Tokenized))
    async def tokenize(body: TokenizeBody) -> Response:
        model = service.models.find(body.model)
        token_ids = await service.tokenize(
            await _text(service, body), add_special_tokens=_adds_special_tokens(body)
        )

        def render() -> Response:
            names = map(service.token_text, token_ids) if body.return_token_strs else ()
            return json_response(
                Tokenized(
                    count=len(token_ids),
                    max_model_len=model.max_model_len,
                    tokens=token_ids,
                    token_strs=list(names) if body.return_token_strs else None,
                )
            )

        return await service.large_work.run(len(token_ids), render)

    @router.post("/detokenize", summary="Token ids to text", responses=json_responses(Detokenized))
    async def detokenize(body: DetokenizeBody) -> Response:
        service.models.find(body.model)
        return json_response(Detokenized(await service.detokenize(body.tokens)))


def _card(model: ModelInfo) -> ModelCard:
    return ModelCard(
        id=model.id,
        created=model.created,
        root=model.adapter or model.name,
        parent=None if model.adapter is None else model.name,
        max_model_len=model.max_model_len,
        model_version=model.version,
        version=model.version if model.adapter is None else model.adapter_version,
        state=model.state,
    )


async def _text(service: GenerationService, body: TokenizeBody) -> str:
    body.check_supported()
    if (body.prompt is None) == (body.messages is None):
        raise invalid("give either prompt or messages", "prompt")
    if body.messages is None:
        return body.prompt or ""
    conversation = await asyncio.to_thread(body.conversation, body.messages)
    return await service.render_chat(conversation)


def _adds_special_tokens(body: TokenizeBody) -> bool:
    """False for chat messages: the chat template writes its own special tokens."""
    if body.add_special_tokens is None:
        return body.messages is None
    return body.add_special_tokens
