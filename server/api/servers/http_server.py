"""Builds the ASGI application: routes, errors, limits and the OpenAPI document."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter
from fastapi_offline import FastAPIOffline
from msgspec import Struct
from starlette.types import ASGIApp

from server.api.access.gatekeeper import Gatekeeper
from server.api.adapter_admin import AdapterAdmin
from server.api.anthropic import response_bodies as anthropic
from server.api.anthropic.errors import with_anthropic_errors
from server.api.anthropic.models import anthropic_models_router
from server.api.anthropic.routes import messages_router
from server.api.generation_service import GenerationService
from server.api.health import Health
from server.api.http.errors.error_responses import add_error_handlers
from server.api.http.middleware.access import AuthorizationMiddleware, CallMiddleware
from server.api.http.middleware.body_limit import BodyLimitMiddleware
from server.api.http.middleware.cors import with_cors
from server.api.http.middleware.encodings import EncodingMiddleware
from server.api.http.middleware.load_header import LoadHeaderMiddleware
from server.api.http.middleware.request_id import RequestIdMiddleware
from server.api.http.routes.methods import MethodsMiddleware
from server.api.http.routes.openapi import describe
from server.api.http.routes.paths import Paths
from server.api.load_reports import LoadReports
from server.api.open_inference.errors import with_open_inference_errors
from server.api.open_inference.repository import Repository
from server.api.open_inference.routes import open_inference_router
from server.api.openai.adapters import adapters_router
from server.api.openai.bodies import response_bodies as responses
from server.api.openai.bodies.embedding_bodies import EmbeddingList, RerankAnswer, ScoreList
from server.api.openai.chat import chat_router
from server.api.openai.completions import completions_router
from server.api.openai.embeddings import embeddings_router
from server.api.openai.models import models_router
from server.api.openai.similarity import similarity_router
from server.api.responses.event_bodies import EVENTS as RESPONSE_EVENTS
from server.api.responses.response_bodies import InputTokenCount, ResponseBody
from server.api.responses.routes import responses_router
from server.api.servers.page import page_router
from server.api.servers.probes import HealthBody, VersionBody, probes_router
from server.api.version_admin import VersionAdmin
from server.config.server_config import ServerConfig

_BODIES: tuple[type[Struct], ...] = (
    responses.ChatCompletion,
    responses.ChatCompletionChunk,
    responses.Completion,
    responses.Detokenized,
    EmbeddingList,
    responses.ModelCard,
    responses.ModelList,
    responses.Tokenized,
    RerankAnswer,
    ScoreList,
    ResponseBody,
    InputTokenCount,
    *RESPONSE_EVENTS,
    anthropic.MessageAnswer,
    anthropic.TokenCount,
    *anthropic.EVENTS,
    HealthBody,
    VersionBody,
)

DESCRIPTION = """Text generation by the APIs of OpenAI and Anthropic.

The server ignores fields of a request that it does not know, so that newer client libraries work.
It refuses fields that it knows but cannot honour (best_of, suffix, beam search and so on).
"""


def create_http_app(
    service: GenerationService,
    health: Health,
    config: ServerConfig,
    admin: VersionAdmin | None = None,
    adapters: AdapterAdmin | None = None,
    *,
    gatekeeper: Gatekeeper | None = None,
    room_for_images: int = 0,
) -> ASGIApp:
    """The application of one API process. It owns none of its arguments.

    With `admin` the Open Inference Protocol's repository changes versions. With `adapters` it has
    vLLM's routes for loading and unloading them. `room_for_images` is how many bytes longer than
    the configuration's a body may be.
    """
    release = version("antipode-server")
    app = FastAPIOffline(
        title="Antipode",
        version=release,
        description=DESCRIPTION,
        redirect_slashes=False,
        strict_content_type=False,
    )
    routers = _routers(service, health, config.write_timeout_seconds, admin, release)
    if adapters is not None:
        routers.append(adapters_router(adapters))
    for router in routers:
        app.include_router(router)
    routes = [*app.routes, *(route for router in routers for route in router.routes)]
    paths = Paths(routes)
    add_error_handlers(app, paths)
    describe(app, _BODIES)
    return _with_edge(
        app,
        paths,
        config,
        gatekeeper or Gatekeeper(),
        health.loads,
        room_for_images=room_for_images,
    )


def _routers(
    service: GenerationService,
    health: Health,
    write_timeout_seconds: float,
    admin: VersionAdmin | None,
    release: str,
) -> list[APIRouter]:
    """The routes that every server has, each protocol's in a router of its own."""
    writing = [
        make(service, write_timeout_seconds=write_timeout_seconds)
        for make in (completions_router, chat_router, responses_router, messages_router)
    ]
    inference = open_inference_router(
        service,
        health,
        health.loads,
        Repository(admin),
        write_timeout_seconds=write_timeout_seconds,
    )
    return [
        *writing,
        embeddings_router(service.embedder),
        similarity_router(service.embedder),
        anthropic_models_router(service.models),
        models_router(service),
        inference,
        page_router(),
        probes_router(health, service.models, service.exemplars, release=release),
    ]


def _with_edge(
    app: ASGIApp,
    paths: Paths,
    config: ServerConfig,
    gatekeeper: Gatekeeper,
    loads: LoadReports,
    *,
    room_for_images: int,
) -> ASGIApp:
    """What applies to every request before its route; the last named comes first."""
    max_body_bytes = config.max_body_bytes
    plain = EncodingMiddleware(app, max_body_bytes=max_body_bytes + room_for_images)
    limited = BodyLimitMiddleware(
        plain, max_body_bytes=max_body_bytes, room_for_images=room_for_images
    )
    any_method = MethodsMiddleware(limited, paths)
    let_in = AuthorizationMiddleware(any_method, gatekeeper)
    worded = with_open_inference_errors(with_anthropic_errors(let_in))
    loaded = LoadHeaderMiddleware(worded, loads, config.load_report_format)
    shared = with_cors(loaded, config.cors_origins)
    return RequestIdMiddleware(CallMiddleware(shared, gatekeeper))
