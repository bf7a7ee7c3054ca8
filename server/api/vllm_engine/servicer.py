"""vllm.grpc.engine.VllmEngine over the service: tokens in, tokens out.

Knows messages and calls; what a request means and whether it may run is the service's business.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import grpc
from google.protobuf.message import Message

from server.api.access.call import current_call
from server.api.generation_service import GenerationService
from server.api.grpc.answered import Cost, answered
from server.api.grpc.handlers import add_service, small, streaming, unary
from server.api.grpc.messages import parse_large
from server.api.grpc.peer import source
from server.api.grpc.status import Context, adopt_request_id
from server.api.grpc.unknown_fields import check_known
from server.api.grpc.writing import Writer
from server.api.health import Health
from server.api.requests.embedding import EmbeddingRequest, Vector
from server.api.requests.generation import Delta, GenerateRequest
from server.api.requests.validation import invalid
from server.api.streams.generation import Generation
from server.api.vllm_engine import translate
from server.link.status import EngineLoad
from server.pb.vllm.grpc import vllm_engine_pb2 as pb

SERVICE_NAME: str = pb.DESCRIPTOR.services_by_name["VllmEngine"].full_name
# The name that charts for vLLM's gRPC server ask grpc.health.v1 for.
HEALTH_NAME = f"/{SERVICE_NAME}/HealthCheck"


class VllmEngineServicer:
    """The methods. A call that cannot be written to for `write_timeout_seconds` is ended."""

    def __init__(
        self, service: GenerationService, health: Health, write_timeout_seconds: float
    ) -> None:
        self._service, self._health, self._loads = service, health, health.loads
        self._write_timeout_seconds = write_timeout_seconds
        # By the caller's name and its request id: callers choose ids without asking each other.
        self._running: defaultdict[tuple[str, str], set[Generation]] = defaultdict(set)
        self._started = time.monotonic()

    async def generate(self, data: bytes, context: Context) -> None:
        async with answered(context, self._loads) as cost:
            message = await parse_large(pb.GenerateRequest, data)
            check_known(message)
            translate.check_supported(message)
            request = GenerateRequest(
                prompt=translate.prompt(message),
                sampling=translate.sampling(message.sampling_params),
                n=message.sampling_params.n or 1,
                request_id=adopt_request_id(context, message.request_id),
                timeout_seconds=context.time_remaining(),
                source=source(context),
            )
            async with await self._service.start(request) as generation:
                with self._listed(generation):
                    await self._answer(generation, message.stream, context, cost)

    async def embed(self, data: bytes, context: Context) -> pb.EmbedResponse | None:
        async with answered(context, self._loads):
            message = await parse_large(pb.EmbedRequest, data)
            check_known(message)
            adopt_request_id(context, message.request_id)
            request = EmbeddingRequest(
                inputs=(translate.prompt(message),),
                timeout_seconds=context.time_remaining(),
                source=source(context),
            )
            found = await self._service.embedder.embed(request, _vector)
            return translate.embedding(found)

    async def abort(self, message: pb.AbortRequest) -> Message:
        """End the caller's own requests by their ids. Every API process knows only its own."""
        caller = current_call().caller_name
        for request_id in message.request_ids:
            for generation in tuple(self._running.get((caller, request_id), ())):
                generation.cancel()
        return pb.AbortResponse()

    async def health(self, _: pb.HealthCheckRequest) -> Message:
        status = self._health.readiness()
        return pb.HealthCheckResponse(healthy=status.ok, message=status.detail)

    async def model_info(self, _: pb.GetModelInfoRequest) -> Message:
        generates = not self._service.embedder.recipe.no_tokens
        return translate.model_info(self._service.models.info(), generates=generates)

    async def server_info(self, _: pb.GetServerInfoRequest) -> Message:
        return translate.server_info(self._load(), time.monotonic() - self._started)

    async def loads(self, message: pb.GetLoadsRequest) -> Message:
        if message.dp_rank:
            raise invalid("the load is of all data ranks together; ask for rank 0", "dp_rank")
        return translate.loads(self._load())

    def _load(self) -> EngineLoad:
        """ApiError (unavailable) while the engine starts."""
        self._service.models.info()
        return self._loads.load() or EngineLoad()

    @contextmanager
    def _listed(self, generation: Generation) -> Iterator[None]:
        """Let `abort` find a generation while it runs."""
        key = current_call().caller_name, generation.request.request_id
        self._running[key].add(generation)
        try:
            yield
        finally:
            self._running[key].discard(generation)
            if not self._running[key]:
                del self._running[key]

    async def _answer(
        self, generation: Generation, is_streamed: bool, context: Context, cost: Cost
    ) -> None:
        writer = Writer(context, self._write_timeout_seconds)
        choices = _Choices(generation, is_streamed=is_streamed)
        while deltas := await generation.take():
            for delta in deltas:
                for response in choices.responses(delta):
                    await writer.write(response)
            cost.usage = generation.usage


class _Choices:
    """What a call has sent of each choice."""

    def __init__(self, generation: Generation, *, is_streamed: bool) -> None:
        self._generation, self._is_streamed = generation, is_streamed
        self._parts: defaultdict[int, list[Delta]] = defaultdict(list)

    def responses(self, delta: Delta) -> Iterator[pb.GenerateResponse]:
        """The messages for a delta: its tokens, and at the end of a choice all of it."""
        parts = self._parts[delta.index]
        parts.append(delta)
        if self._is_streamed and (delta.token_ids or len(parts) == 1):
            yield translate.chunk(self._generation, delta, is_first=len(parts) == 1)
        if delta.finish_reason is not None:
            yield translate.complete(self._generation, parts, has_chunks=self._is_streamed)


def _vector(numbers: Vector) -> Vector:
    return numbers


def add_vllm_engine(
    server: grpc.aio.Server,
    service: GenerationService,
    health: Health,
    write_timeout_seconds: float,
) -> None:
    """Serve vllm.grpc.engine.VllmEngine on `server`."""
    servicer = VllmEngineServicer(service, health, write_timeout_seconds)
    end = partial(answered, loads=health.loads)
    handlers = {
        "Generate": streaming(servicer.generate),
        "Embed": unary(servicer.embed),
        "Abort": small(end, pb.AbortRequest, servicer.abort),
        "HealthCheck": small(end, pb.HealthCheckRequest, servicer.health),
        "GetModelInfo": small(end, pb.GetModelInfoRequest, servicer.model_info),
        "GetServerInfo": small(end, pb.GetServerInfoRequest, servicer.server_info),
        "GetLoads": small(end, pb.GetLoadsRequest, servicer.loads),
    }
    add_service(server, SERVICE_NAME, handlers)
