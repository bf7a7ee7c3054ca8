"""The protocol over HTTP: everything below `/v2`.

Knows paths and bodies; what a request means is read elsewhere.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from server.api.generation_service import GenerationService
from server.api.health import Health, HealthStatus
from server.api.http.answering import answer, source, timeout_seconds
from server.api.http.disconnect import until_disconnect
from server.api.http.json_bodies.json_body import MAX_INLINE_BYTES
from server.api.http.json_bodies.json_decoding import decode
from server.api.http.json_bodies.json_response import json_response
from server.api.http.middleware.request_id import adopt_request_id
from server.api.http.sse import EventStream
from server.api.large_work import LARGE_BYTES, decode_large
from server.api.load_reports import LoadReports
from server.api.open_inference import bodies
from server.api.open_inference.bodies import GenerateAnswer
from server.api.open_inference.errors import PREFIX, InferenceError
from server.api.open_inference.inference import Answer, Inference, flattened
from server.api.open_inference.model_bodies import (
    ModelConfigBody,
    ModelMetadataBody,
    RepositoryEntry,
    ServerMetadataBody,
    StatisticsBody,
)
from server.api.open_inference.models import Models
from server.api.open_inference.options import OPTION_NAMES
from server.api.open_inference.repository import Repository
from server.api.open_inference.signature import INPUTS
from server.api.requests.generation import Delta, GenerateRequest
from server.api.requests.validation import invalid
from server.api.streams.generation_group import GenerationGroup
from server.errors import ApiError, ErrorKind

_INPUT_NAMES = tuple(spec.name for spec in INPUTS if spec.name not in OPTION_NAMES)
# Models by name only, and in a version.
_MODEL = f"{PREFIX}/models/{{model:path}}"
_VERSION = f"{_MODEL}/versions/{{version}}"


def open_inference_router(
    service: GenerationService,
    health: Health,
    loads: LoadReports,
    repository: Repository,
    *,
    write_timeout_seconds: float,
) -> APIRouter:
    # The protocol has a document of its own.
    router = APIRouter(default_response_class=Response, include_in_schema=False)
    models = Models(service.models, loads)
    _add_health(router, health, models)
    _add_repository(router, repository)
    _add_inference(router, service, write_timeout_seconds)
    # The last: the path of a model's metadata is the beginning of all others.
    _add_models(router, models)
    return router


def _add_health(router: APIRouter, health: Health, models: Models) -> None:
    @router.get(f"{PREFIX}/health/live", summary="Does the engine make progress?")
    async def live() -> Response:
        return _probe(health.liveness())

    @router.get(f"{PREFIX}/health/ready", summary="Can requests be served?")
    async def ready() -> Response:
        return _probe(health.readiness())

    @_of_models(router.get, "/ready", summary="Can the version be served?")
    async def model_ready(model: str, version: str = "") -> Response:
        if not models.is_ready(model, version):
            models.check_was_here(model, version)
            raise ApiError(ErrorKind.UNAVAILABLE, f"the model {model!r} is not ready")
        return _probe(health.readiness())

    @router.get(PREFIX, summary="The server")
    async def server_metadata() -> Response:
        return json_response(ServerMetadataBody.current())


def _add_models(router: APIRouter, models: Models) -> None:
    @_of_models(router.get, "/config", summary="Configuration")
    async def config(model: str, version: str = "") -> Response:
        return json_response(ModelConfigBody.of(models.find(model, version)))

    @router.get(f"{PREFIX}/models/stats", summary="Statistics")
    @_of_models(router.get, "/stats", summary="Statistics")
    async def statistics(model: str = "", version: str = "") -> Response:
        return json_response(StatisticsBody.of(models.statistics(model, version)))

    @_of_models(router.get, "", summary="The tensors")
    async def metadata(model: str, version: str = "") -> Response:
        found = models.find(model, version)
        return json_response(ModelMetadataBody.of(found.name, models.versions()))


def _add_repository(router: APIRouter, repository: Repository) -> None:
    """The calls behind the admin token."""

    @router.post(f"{PREFIX}/repository/index", summary="List versions")
    async def index(request: Request) -> Response:
        repository.authorize(request.headers)
        entries = repository.index(only_ready=bodies.read_flag(await _body(request), "ready"))
        body = [RepositoryEntry.of(entry) for entry in entries]
        return Response(msgspec.json.encode(body), media_type="application/json")

    @router.post(f"{PREFIX}/repository/models/{{model:path}}/load", summary="Load a version")
    async def load(model: str, request: Request) -> Response:
        repository.authorize(request.headers)
        await repository.load(model, bodies.read_parameters(await _body(request)))
        return Response()

    @router.post(f"{PREFIX}/repository/models/{{model:path}}/unload", summary="Free a version")
    async def unload(model: str, request: Request) -> Response:
        repository.authorize(request.headers)
        await repository.unload(model)
        return Response()


def _add_inference(
    router: APIRouter, service: GenerationService, write_timeout_seconds: float
) -> None:
    @_of_models(router.post, "/infer", summary="Generate")
    async def infer(request: Request, model: str, version: str = "") -> Response:
        inference, binary = await _read(
            request, lambda value, tail: bodies.read_infer(value, tail, model, version)
        )
        async with (
            until_disconnect(request.receive),
            await service.start_group(_requests(inference, request)) as group,
        ):
            found = Answer(inference, group)
            taken = await found.finish()
            request.state.usage = group.usage

            def render() -> Response:
                tensors = found.tensors(taken)
                return bodies.infer_response(found.model, inference.id, tensors, binary)

            return await service.large_work.run(group.num_entries, render)

    async def generate(request: Request, model: str, version: str, *, stream: bool) -> Response:
        inference = await _read(
            request, lambda value, _: bodies.read_generate(value, model, version, _INPUT_NAMES)
        )
        return await answer(
            service,
            _requests(inference, request),
            lambda group: GenerateRenderer(inference, group),
            request,
            stream=stream,
            write_timeout_seconds=write_timeout_seconds,
            events=InferenceEvents,
        )

    @_of_models(router.post, "/generate", summary="Generate")
    async def generate_whole(request: Request, model: str, version: str = "") -> Response:
        return await generate(request, model, version, stream=False)

    @_of_models(router.post, "/generate_stream", summary="Generate as events")
    async def generate_stream(request: Request, model: str, version: str = "") -> Response:
        return await generate(request, model, version, stream=True)


class GenerateRenderer:
    """Words the answers of `generate`; an event has the outputs of what came since the last."""

    def __init__(self, inference: Inference, group: GenerationGroup) -> None:
        self._id = inference.id
        self._answer = Answer(inference, group)

    def whole(self, answers: list[list[Delta]]) -> GenerateAnswer:
        return self._body(flattened(answers))

    def chunks(self, taken: list[tuple[int, Delta]]) -> Iterable[GenerateAnswer]:
        # One choice per event, so that each field is one value.
        return [self._body([each]) for each in taken]

    def closing(self) -> Iterable[GenerateAnswer]:
        return ()

    def _body(self, taken: list[tuple[int, Delta]]) -> GenerateAnswer:
        return bodies.generate_answer(self._answer.model, self._id, self._answer.tensors(taken))


class InferenceEvents(EventStream):
    """Nothing follows the last event; an error is an event too."""

    _end = b""

    def _failure(self, error: ApiError) -> bytes:
        return self._encode([InferenceError(error.message)])


def _requests(inference: Inference, request: Request) -> list[GenerateRequest]:
    return inference.generate_requests(
        request_id=adopt_request_id(request, None),
        timeout_seconds=timeout_seconds(request),
        source=source(request),
    )


async def _body(request: Request) -> dict[str, Any]:
    """A small body that may be missing."""
    if not await request.body():
        return {}
    value: Any = await _read(request, lambda value, _: value)
    if not isinstance(value, dict):
        raise invalid("the body must be a JSON object")
    return value


async def _read[T](request: Request, meaning: Callable[[Any, bytes], T]) -> T:
    """What a body means: its decoded JSON, and the bytes of tensors behind it.

    A large one is decoded and read in a thread.
    """
    body = await request.body()
    given = request.headers.get(bodies.LENGTH_HEADER)
    length = len(body) if given is None else _length(given, len(body))

    def read() -> T:
        return meaning(_decoded(body[:length]), body[length:])

    if len(body) <= MAX_INLINE_BYTES:
        return read()
    return await (decode_large(read) if len(body) > LARGE_BYTES else asyncio.to_thread(read))


def _decoded(text: bytes) -> Any:
    try:
        return decode(text)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid(f"the body is not valid JSON: {error}") from None


def _length(given: str, most: int) -> int:
    if not (given.isascii() and given.isdecimal() and int(given[:18]) <= most):
        raise invalid(
            f"Inference-Header-Content-Length is {given[:20]!r}; it must be the length of the JSON,"
            f" at most the body's {most} bytes"
        )
    return int(given)


def _of_models[F: Callable[..., Any]](
    method: Callable[..., Callable[[F], F]], end: str, **options: Any
) -> Callable[[F], F]:
    """Serve a path of models with a version and without one, in the order that tells them apart."""

    def register(endpoint: F) -> F:
        for path in (_VERSION, _MODEL):
            method(path + end, **options)(endpoint)
        return endpoint

    return register


def _probe(status: HealthStatus) -> Response:
    """An empty answer; ApiError (unavailable) with the reason."""
    if not status.ok:
        raise ApiError(ErrorKind.UNAVAILABLE, status.detail)
    return Response()
