"""inference.GRPCInferenceService over the service, the health and the versions of the model.

Knows messages and calls; what a request means is read elsewhere. Requests arrive as bytes, so that
bytes that are no message get an answer like every other fault.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable
from functools import partial

import grpc
from google.protobuf.message import Message

from server.api.generation_service import GenerationService
from server.api.grpc.answered import Cost, answered
from server.api.grpc.handlers import add_service, bidirectional, small, unary
from server.api.grpc.messages import parse_large
from server.api.grpc.peer import source
from server.api.grpc.status import Context, adopt_request_id
from server.api.grpc.writing import Writer
from server.api.health import Health
from server.api.load_reports import LoadReports
from server.api.open_inference import grpc_messages as messages
from server.api.open_inference.inference import Answer, Inference
from server.api.open_inference.models import Models
from server.api.open_inference.repository import Repository
from server.api.open_inference.signature import EXTENSIONS, SERVER_NAME, release
from server.api.requests.generation import GenerateRequest
from server.api.requests.validation import is_request_id
from server.errors import ApiError
from server.pb.inference import open_inference_pb2 as pb

SERVICE_NAME: str = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
# Requests of one ModelStreamInfer that run at once; the next one is read when one has ended.
MAX_REQUESTS_PER_STREAM = 64
_MAX_ERROR_CHARS = 1024

_log = logging.getLogger(__name__)


class InferenceServicer:
    """The methods that generate. A call whose client reads nothing is ended after a while."""

    def __init__(
        self, service: GenerationService, loads: LoadReports, write_timeout_seconds: float
    ) -> None:
        self._service, self._loads = service, loads
        self._write_timeout_seconds = write_timeout_seconds

    async def infer(self, data: bytes, context: Context) -> pb.ModelInferResponse | None:
        async with answered(context, self._loads) as cost:
            message = await parse_large(pb.ModelInferRequest, data)
            inference = messages.inference(message)
            request_id = adopt_request_id(context, _own_id(message.id))
            requests = _requests(inference, context, request_id)
            return await self._whole(inference, requests, cost)

    async def stream_infer(self, data: AsyncIterable[bytes], context: Context) -> None:
        """Each request runs in a task of its own; a task fails only if the call itself does."""
        async with answered(context, self._loads):
            request_id = adopt_request_id(context)
            writer = Writer(context, self._write_timeout_seconds)
            places = asyncio.Semaphore(MAX_REQUESTS_PER_STREAM)
            try:
                async with asyncio.TaskGroup() as tasks:
                    async for each in data:
                        await places.acquire()
                        task = tasks.create_task(self._answer(each, request_id, context, writer))
                        task.add_done_callback(lambda _: places.release())
            except* Exception as failures:
                raise failures.exceptions[0] from None

    async def _answer(self, data: bytes, request_id: str, context: Context, writer: Writer) -> None:
        """Answer one request of a stream; an error of it is a message."""
        message = pb.ModelInferRequest()
        try:
            message = await parse_large(pb.ModelInferRequest, data)
            inference = messages.inference(message)
            requests = _requests(inference, context, request_id)
            if inference.wants_parts:
                await self._parts(inference, requests, writer)
                return
            whole = await self._whole(inference, requests, Cost())
        except ApiError as error:
            await writer.write(_stream_error(message.id, error.message))
        except Exception as error:
            if isinstance(error, grpc.aio.InternalError):
                raise
            _log.exception("a request of a stream failed")
            await writer.write(_stream_error(message.id, "internal error"))
        else:
            await writer.write(pb.ModelStreamInferResponse(infer_response=whole))

    async def _parts(
        self, inference: Inference, requests: list[GenerateRequest], writer: Writer
    ) -> None:
        async with await self._service.start_group(requests) as group:
            answer = Answer(inference, group)
            while taken := await group.take():
                is_final = answer.is_complete and not any(g.error for g in group.generations)
                part = messages.response(
                    answer.model, inference.id, answer.tensors(taken), is_final=is_final
                )
                await writer.write(pb.ModelStreamInferResponse(infer_response=part))

    async def _whole(
        self, inference: Inference, requests: list[GenerateRequest], cost: Cost
    ) -> pb.ModelInferResponse:
        async with await self._service.start_group(requests) as group:
            answer = Answer(inference, group)
            taken = await answer.finish()
            cost.usage = group.usage

            def render() -> pb.ModelInferResponse:
                tensors = answer.tensors(taken)
                return messages.response(answer.model, inference.id, tensors, is_final=True)

            return await self._service.large_work.run(group.num_entries, render)


class ModelServicer:
    """The methods that tell of server, model and versions."""

    def __init__(self, models: Models, health: Health, repository: Repository) -> None:
        self._models, self._health, self._repository = models, health, repository

    async def live(self, _: pb.ServerLiveRequest) -> Message:
        return pb.ServerLiveResponse(live=self._health.liveness().ok)

    async def ready(self, _: pb.ServerReadyRequest) -> Message:
        return pb.ServerReadyResponse(ready=self._health.readiness().ok)

    async def model_ready(self, message: pb.ModelReadyRequest) -> Message:
        is_ready = self._models.is_ready(message.name, message.version)
        return pb.ModelReadyResponse(ready=is_ready and self._health.readiness().ok)

    async def server_metadata(self, _: pb.ServerMetadataRequest) -> Message:
        return pb.ServerMetadataResponse(name=SERVER_NAME, version=release(), extensions=EXTENSIONS)

    async def model_metadata(self, message: pb.ModelMetadataRequest) -> Message:
        model = self._models.find(message.name, message.version)
        return messages.model_metadata(model.name, self._models.versions())

    async def model_config(self, message: pb.ModelConfigRequest) -> Message:
        return messages.model_config(self._models.find(message.name, message.version).name)

    async def statistics(self, message: pb.ModelStatisticsRequest) -> Message:
        return messages.statistics(self._models.statistics(message.name, message.version))

    async def index(self, message: pb.RepositoryIndexRequest) -> Message:
        entries = self._repository.index(only_ready=message.ready)
        return pb.RepositoryIndexResponse(
            models=[
                pb.RepositoryIndexResponse.ModelIndex(
                    name=each.name, version=each.version, state=each.state, reason=each.reason
                )
                for each in entries
            ]
        )

    async def load(self, message: pb.RepositoryModelLoadRequest) -> Message:
        await self._repository.load(message.model_name, messages.parameters(message.parameters))
        return pb.RepositoryModelLoadResponse()

    async def unload(self, message: pb.RepositoryModelUnloadRequest) -> Message:
        await self._repository.unload(message.model_name)
        return pb.RepositoryModelUnloadResponse()


def add_open_inference(
    server: grpc.aio.Server,
    service: GenerationService,
    health: Health,
    repository: Repository,
    write_timeout_seconds: float,
) -> None:
    """Serve inference.GRPCInferenceService on `server`."""
    loads = health.loads
    inference = InferenceServicer(service, loads, write_timeout_seconds)
    models = ModelServicer(Models(service.models, loads), health, repository)
    end = partial(answered, loads=loads)
    admin = repository.authorize
    handlers = {
        "ServerLive": small(end, pb.ServerLiveRequest, models.live),
        "ServerReady": small(end, pb.ServerReadyRequest, models.ready),
        "ModelReady": small(end, pb.ModelReadyRequest, models.model_ready),
        "ServerMetadata": small(end, pb.ServerMetadataRequest, models.server_metadata),
        "ModelMetadata": small(end, pb.ModelMetadataRequest, models.model_metadata),
        "ModelConfig": small(end, pb.ModelConfigRequest, models.model_config),
        "ModelStatistics": small(end, pb.ModelStatisticsRequest, models.statistics),
        "RepositoryIndex": small(end, pb.RepositoryIndexRequest, models.index, admin),
        "RepositoryModelLoad": small(end, pb.RepositoryModelLoadRequest, models.load, admin),
        "RepositoryModelUnload": small(end, pb.RepositoryModelUnloadRequest, models.unload, admin),
        "ModelInfer": unary(inference.infer),
        "ModelStreamInfer": bidirectional(inference.stream_infer),
    }
    add_service(server, SERVICE_NAME, handlers)


def _requests(inference: Inference, context: Context, request_id: str) -> list[GenerateRequest]:
    return inference.generate_requests(
        request_id=request_id,
        timeout_seconds=context.time_remaining(),
        source=source(context),
    )


def _own_id(text: str) -> str:
    """The client's name for a request where it can be the call's id too."""
    return text if is_request_id(text) else ""


def _stream_error(request_id: str, text: str) -> pb.ModelStreamInferResponse:
    return pb.ModelStreamInferResponse(
        error_message=text[:_MAX_ERROR_CHARS],
        infer_response=pb.ModelInferResponse(id=request_id),
    )
