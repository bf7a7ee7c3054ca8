"""Builds the ASGI application: routes, errors, limits and the OpenAPI document."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import FastAPI
from msgspec import Struct
from starlette.types import ASGIApp

from server.api.anthropic import response_bodies as anthropic
from server.api.anthropic.errors import AnthropicErrors
from server.api.anthropic.routes import messages_router
from server.api.health import Health
from server.api.http.errors import add_error_handlers
from server.api.http.middleware import BodyLimitMiddleware, RequestIdMiddleware
from server.api.http.openapi import describe
from server.api.openai import response_bodies as responses
from server.api.openai.chat import chat_router
from server.api.openai.completions import completions_router
from server.api.openai.models import models_router
from server.api.responses.event_bodies import EVENTS as RESPONSE_EVENTS
from server.api.responses.response_bodies import InputTokenCount, ResponseBody
from server.api.responses.routes import responses_router
from server.api.servers.probes import HealthBody, VersionBody, probes_router
from server.api.service import Service
from server.config import ServerConfig

_BODIES: tuple[type[Struct], ...] = (
    responses.ChatCompletion,
    responses.ChatCompletionChunk,
    responses.Completion,
    responses.Detokenized,
    responses.ModelCard,
    responses.ModelList,
    responses.Tokenized,
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


def create_http_app(service: Service, health: Health, config: ServerConfig) -> ASGIApp:
    """The application of one API process. It owns none of its arguments."""
    release = version("antipode-server")
    app = FastAPI(
        title="Antipode",
        version=release,
        description=DESCRIPTION,
        redirect_slashes=False,
        strict_content_type=False,
    )
    write_timeout_seconds = config.write_timeout_seconds
    app.include_router(completions_router(service, write_timeout_seconds=write_timeout_seconds))
    app.include_router(chat_router(service, write_timeout_seconds=write_timeout_seconds))
    app.include_router(responses_router(service, write_timeout_seconds=write_timeout_seconds))
    app.include_router(messages_router(service, write_timeout_seconds=write_timeout_seconds))
    app.include_router(models_router(service))
    app.include_router(probes_router(health, service.models, release=release))
    add_error_handlers(app)
    describe(app, _BODIES)
    limited = BodyLimitMiddleware(app, max_body_bytes=config.max_body_bytes)
    return RequestIdMiddleware(AnthropicErrors(limited))
