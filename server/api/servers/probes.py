"""The endpoints for operators: probes, metrics, the release."""

from __future__ import annotations

from fastapi import APIRouter, Request
from msgspec import Struct
from starlette.responses import Response

from server.api.health import Health, HealthStatus
from server.api.http.json_bodies.json_response import json_response
from server.api.http.routes.openapi import Responses, json_content, json_responses, text_responses
from server.api.open_metrics import CONTENT_TYPE, OPEN_METRICS, Exemplars, open_metrics
from server.api.requests.generation import ModelInfo
from server.api.requests.model_directory import ModelDirectory
from server.errors import ApiError
from server.start_clock import StartPhase

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class VersionBody(Struct, frozen=True, kw_only=True):
    """`version` is the server's release. The model and its version are null while it loads."""

    version: str
    model: str | None
    model_version: str | None


class HealthBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`progress` is 0 to 1. Only a server that starts has a `phase`, for `phase_seconds` so far."""

    state: str
    detail: str
    progress: float
    phase: StartPhase | None = None
    phase_seconds: float | None = None


def probes_router(
    health: Health, models: ModelDirectory, exemplars: Exemplars, *, release: str
) -> APIRouter:
    router = APIRouter(default_response_class=Response)
    _add_probes(router, health)

    @router.get("/version", summary="The release", responses=json_responses(VersionBody))
    async def get_version() -> Response:
        try:
            model: ModelInfo | None = models.served()
        except ApiError:
            model = None
        name, version = (model.name, model.version) if model else (None, None)
        return json_response(VersionBody(version=release, model=name, model_version=version))

    @router.get("/metrics", summary="Prometheus metrics", responses=text_responses("text/plain"))
    async def get_metrics(request: Request) -> Response:
        if OPEN_METRICS in request.headers.get("accept", ""):
            text = open_metrics(health.metrics(), exemplars)
            return Response(text, headers={"content-type": CONTENT_TYPE})
        return Response(health.metrics(), headers={"content-type": METRICS_TYPE})

    return router


def _add_probes(router: APIRouter, health: Health) -> None:
    @router.get("/livez", summary="Does the engine make progress?", responses=_health_responses())
    async def livez() -> Response:
        return _health_response(health.liveness())

    @router.get("/health", summary="The same as /readyz", responses=_health_responses())
    @router.get("/readyz", summary="Can requests be served?", responses=_health_responses())
    async def readyz() -> Response:
        return _health_response(health.readiness())


def _health_response(status: HealthStatus) -> Response:
    body = HealthBody(
        state=status.state,
        detail=status.detail,
        progress=status.progress,
        phase=status.phase,
        phase_seconds=status.phase_seconds,
    )
    return json_response(body, 200 if status.ok else 503)


def _health_responses() -> Responses:
    content = json_content(HealthBody)
    return {
        200: {"description": "Yes.", "content": content},
        503: {"description": "No; the body says why.", "content": content},
    }
