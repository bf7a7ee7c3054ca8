"""GET /v1/models for clients that send the header anthropic-version; OpenAI's list has that path.

Knows neither OpenAI's list nor requests for tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from fastapi import APIRouter, Query
from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from server.api.anthropic.errors import MODELS_PATH, asks_for_ours
from server.api.anthropic.response_bodies import ModelEntry, ModelPage
from server.api.http.json_bodies.json_response import json_response
from server.api.requests.generation import ModelInfo
from server.api.requests.model_directory import ModelDirectory

_DEFAULT_LIMIT, _MAX_LIMIT = 20, 1000


class _OursOnly(APIRoute):
    """A route that is there only for clients of this protocol."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return super().matches(scope) if asks_for_ours(scope) else (Match.NONE, {})


def anthropic_models_router(models: ModelDirectory) -> APIRouter:
    """To be included before the router of OpenAI's list."""
    router = APIRouter(route_class=_OursOnly, include_in_schema=False)

    @router.get(MODELS_PATH)
    async def list_models(
        before_id: str | None = None,
        after_id: str | None = None,
        limit: int = Query(_DEFAULT_LIMIT, ge=1, le=_MAX_LIMIT),
    ) -> Response:
        found = list(_between(models.loaded(), after_id, before_id))
        page = [_entry(model) for model in found[:limit]]
        return json_response(
            ModelPage(
                data=page,
                has_more=len(found) > limit,
                first_id=page[0].id if page else None,
                last_id=page[-1].id if page else None,
            )
        )

    @router.get(MODELS_PATH + "/{model:path}")
    async def get_model(model: str) -> Response:
        return json_response(_entry(models.find(model)))

    return router


def _between(
    models: list[ModelInfo], after_id: str | None, before_id: str | None
) -> Iterator[ModelInfo]:
    """The models behind the one and in front of the other; an id that is none limits nothing."""
    ids = [model.id for model in models]
    first = ids.index(after_id) + 1 if after_id in ids else 0
    last = ids.index(before_id) if before_id in ids else len(ids)
    yield from models[first:last]


def _entry(model: ModelInfo) -> ModelEntry:
    created = datetime.fromtimestamp(model.created, UTC)
    return ModelEntry(
        id=model.id, display_name=model.id, created_at=created.strftime("%Y-%m-%dT%H:%M:%SZ")
    )
