"""POST /rerank and /score: the cosine similarity of embeddings, in the shapes of Cohere and vLLM.

A model that reads query and document together (a cross-encoder) is not served here: two texts are
embedded apart, and only their vectors meet.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from fastapi import APIRouter, Request
from msgspec import UNSET
from starlette.responses import Response

from server.api.embeddings.embedder import Embedder
from server.api.http.answering import source, timeout_seconds
from server.api.http.disconnect import until_disconnect
from server.api.http.json_bodies.json_body import LargeBodyRoute
from server.api.http.json_bodies.json_response import json_response
from server.api.http.middleware.request_id import adopt_request_id
from server.api.http.routes.openapi import json_responses
from server.api.openai.bodies.embedding_bodies import (
    RankedDocument,
    RankedResult,
    RerankAnswer,
    RerankBody,
    ScoreBody,
    ScoreList,
    ScoreObject,
)
from server.api.openai.embeddings import usage_of
from server.api.requests.embedding import EmbeddingRequest, Embeddings, Vector, cosine
from server.api.requests.validation import invalid

# The names by which sentence-transformers finds the texts to put before queries and documents.
_QUERY = ("query",)
_DOCUMENT = ("document", "passage", "corpus")
_RERANK_PATHS = ("/rerank", "/v1/rerank", "/v2/rerank")
_SCORE_PATHS = ("/score", "/v1/score")


def similarity_router(embedder: Embedder) -> APIRouter:
    router = APIRouter(route_class=LargeBodyRoute, default_response_class=Response)

    async def rerank(body: RerankBody, request: Request) -> Response:
        request_id, asked = adopt_request_id(request, body.request_id), _rerank(embedder, body)
        found = await _embed(embedder, body, asked, request)
        return json_response(_ranked(body, found, request_id))

    async def score(body: ScoreBody, request: Request) -> Response:
        request_id, asked = adopt_request_id(request, body.request_id), _score(embedder, body)
        found = await _embed(embedder, body, asked, request)
        return json_response(_scored(body, found, request_id))

    for path in _RERANK_PATHS:
        router.post(
            path,
            summary="Order documents by their similarity to a query",
            responses=json_responses(RerankAnswer),
        )(rerank)
    for path in _SCORE_PATHS:
        router.post(
            path, summary="The similarity of pairs of texts", responses=json_responses(ScoreList)
        )(score)
    return router


type _Asked = tuple[Sequence[str], Sequence[str]]


async def _embed(
    embedder: Embedder, body: RerankBody | ScoreBody, asked: _Asked, request: Request
) -> Embeddings[Vector]:
    """The vectors of all texts, which `asked` has with the names that errors call them by."""
    texts, names = asked
    body.check_supported()
    wanted = EmbeddingRequest(
        inputs=tuple(texts),
        names=tuple(names),
        is_prompted=True,
        model=body.model,
        max_tokens=body.truncate_prompt_tokens,
        timeout_seconds=timeout_seconds(request),
        source=source(request),
        param="documents" if isinstance(body, RerankBody) else "text_2",
    )
    async with until_disconnect(request.receive):
        return await embedder.embed(wanted, lambda vector: vector)


def _rerank(embedder: Embedder, body: RerankBody) -> _Asked:
    """The query and the documents, each behind the text that the checkpoint has for its kind."""
    if body.top_n is not None and body.top_n < 0:
        raise invalid(f"top_n is {body.top_n}; it must be at least 1, or 0 for all", "top_n")
    if not body.query or not all(body.texts):
        raise invalid("query and documents must not be empty", "documents")
    if not body.documents:
        raise invalid("documents must not be empty", "documents")
    before = embedder.recipe.prompt(*_DOCUMENT)
    texts = [embedder.recipe.prompt(*_QUERY) + body.query, *(before + text for text in body.texts)]
    return texts, ["query", *(f"documents[{i}]" for i in range(len(body.documents)))]


def _ranked(body: RerankBody, found: Embeddings[Vector], request_id: str) -> RerankAnswer:
    query, *documents = found.vectors
    scores = [cosine(query, document) for document in documents]
    best = sorted(range(len(scores)), key=lambda index: -scores[index])[: body.top_n or None]
    texts, keeps = body.texts, body.return_documents is not False
    return RerankAnswer(
        id=f"rerank-{request_id}",
        model=found.model,
        model_version=found.version,
        results=[
            RankedResult(
                index=index,
                relevance_score=scores[index],
                document=RankedDocument(text=texts[index]) if keeps else UNSET,
            )
            for index in best
        ],
        usage=usage_of(found),
    )


def _score(embedder: Embedder, body: ScoreBody) -> _Asked:
    first, second = _listed(body.text_1), _listed(body.text_2)
    if len(first) not in (1, len(second)):
        raise invalid(
            f"text_1 has {len(first)} texts and text_2 has {len(second)}; text_1 must be one text,"
            " or as many as text_2",
            "text_1",
        )
    if not all((*first, *second)) or not second:
        raise invalid("text_1 and text_2 must not be empty", "text_2")
    before = embedder.recipe.prompt()
    names = [*_numbered("text_1", first), *_numbered("text_2", second)]
    return [before + text for text in (*first, *second)], names


def _scored(body: ScoreBody, found: Embeddings[Vector], request_id: str) -> ScoreList:
    count = len(_listed(body.text_2))
    first, second = found.vectors[:-count], found.vectors[-count:]
    pairs = zip(first * count if len(first) == 1 else first, second, strict=True)
    return ScoreList(
        id=f"score-{request_id}",
        created=int(time.time()),
        model=found.model,
        model_version=found.version,
        data=[
            ScoreObject(index=index, score=cosine(left, right))
            for index, (left, right) in enumerate(pairs)
        ],
        usage=usage_of(found),
    )


def _listed(texts: str | list[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else texts


def _numbered(param: str, texts: Sequence[str]) -> list[str]:
    return [param] if len(texts) == 1 else [f"{param}[{i}]" for i in range(len(texts))]
