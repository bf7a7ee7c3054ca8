"""POST /v1/embeddings: takes inputs in OpenAI's four forms, answers with numbers or base64."""

from __future__ import annotations

import base64
import time
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from server.api.embeddings.embedder import Embedder
from server.api.http.answering import source, timeout_seconds
from server.api.http.disconnect import until_disconnect
from server.api.http.json_bodies.json_body import LargeBodyRoute
from server.api.http.json_bodies.json_response import json_response
from server.api.http.middleware.request_id import adopt_request_id
from server.api.http.routes.openapi import json_responses
from server.api.openai.bodies.embedding_bodies import (
    EmbeddingBody,
    EmbeddingList,
    EmbeddingObject,
    EmbeddingUsage,
)
from server.api.requests.embedding import EmbeddingRequest, Embeddings, Vector


def embeddings_router(embedder: Embedder) -> APIRouter:
    router = APIRouter(route_class=LargeBodyRoute)

    @router.post(
        "/v1/embeddings",
        summary="Turn texts into vectors",
        responses=json_responses(EmbeddingList),
        response_class=Response,
    )
    async def create_embeddings(body: EmbeddingBody, request: Request) -> Response:
        body.check_supported()
        request_id = adopt_request_id(request, body.request_id)
        encode = _base64 if body.encoding_format == "base64" else _numbers
        async with until_disconnect(request.receive):
            found = await embedder.embed(_embedding_request(body, request), encode)
            return json_response(_whole(found, request_id))

    return router


def usage_of(found: Embeddings[Any]) -> EmbeddingUsage:
    return EmbeddingUsage(
        prompt_tokens=found.num_prompt_tokens, total_tokens=found.num_prompt_tokens
    )


def _embedding_request(body: EmbeddingBody, request: Request) -> EmbeddingRequest:
    return EmbeddingRequest(
        inputs=body.inputs,
        model=body.model,
        dimensions=body.dimensions,
        prompt_name=body.prompt_name or "",
        max_tokens=body.truncate_prompt_tokens,
        add_special_tokens=body.add_special_tokens is not False,
        timeout_seconds=timeout_seconds(request),
        source=source(request),
    )


def _whole(found: Embeddings[Any], request_id: str) -> EmbeddingList:
    return EmbeddingList(
        id=f"embd-{request_id}",
        created=int(time.time()),
        model=found.model,
        model_version=found.version,
        data=[
            EmbeddingObject(index=index, embedding=vector)
            for index, vector in enumerate(found.vectors)
        ],
        usage=usage_of(found),
    )


def _base64(vector: Vector) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")


def _numbers(vector: Vector) -> msgspec.Raw:
    """JSON already, so that a long answer is not encoded in one go."""
    return msgspec.Raw(msgspec.json.encode(vector.tolist()))
