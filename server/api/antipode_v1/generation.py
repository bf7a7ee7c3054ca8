"""antipode.v1.Generation over the service: one call is one generation.

Knows messages and calls; what a request means and whether it may run is the service's business.
Requests arrive as bytes, so that bytes that are no message get an answer like every other fault.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import grpc

from server.api.antipode_v1 import embedding, translate
from server.api.antipode_v1.known_fields import check_known
from server.api.grpc.messages import MAX_INLINE_BYTES, parse_large
from server.api.grpc.peer import source
from server.api.grpc.status import REQUEST_ID_KEY, Context, adopt_request_id, errors_as_status
from server.api.requests.generation import GenerateRequest
from server.api.requests.validation import check_count, check_prompt_length
from server.api.service import Service
from server.api.streams.stream import Generation
from server.errors import ApiError, ErrorKind
from server.link.sampling import MAX_STOP_TOKEN_IDS
from server.pb.antipode.v1 import generation_pb2 as pb

SERVICE_NAME: str = pb.DESCRIPTOR.services_by_name["Generation"].full_name


class GenerationServicer:
    """The methods. A call that cannot be written to for `write_timeout_seconds` is ended."""

    def __init__(self, service: Service, write_timeout_seconds: float) -> None:
        self._service = service
        self._write_timeout_seconds = write_timeout_seconds

    async def generate(self, data: bytes, context: Context) -> None:
        async with errors_as_status(context):
            message = await parse_large(pb.GenerateRequest, data)
            check_known(message)
            if len(data) > MAX_INLINE_BYTES:
                self._check_lengths(message)
            request = await self._request(message, context)
            # Leaving this block, for whatever reason, is what tells the engine to stop.
            async with await self._service.start(request) as generation:
                await context.send_initial_metadata(((REQUEST_ID_KEY, request.request_id),))
                await self._stream(generation, message.return_token_ids, context)

    async def tokenize(self, data: bytes, context: Context) -> pb.TokenizeResponse | None:
        async with errors_as_status(context):
            message = await parse_large(pb.TokenizeRequest, data)
            check_known(message)
            adopt_request_id(context)
            model = self._service.models.find(message.model)
            text = await self._text(message)
            token_ids = await self._service.tokenize(
                text, add_special_tokens=translate.add_special_tokens(message)
            )
            return pb.TokenizeResponse(token_ids=token_ids, max_model_len=model.max_model_len)

    async def detokenize(self, data: bytes, context: Context) -> pb.DetokenizeResponse | None:
        async with errors_as_status(context):
            message = await parse_large(pb.DetokenizeRequest, data)
            adopt_request_id(context)
            self._service.models.find(message.model)
            self._service.check_num_tokens(len(message.token_ids))
            text = await self._service.detokenize(list(message.token_ids))
            return pb.DetokenizeResponse(text=text)

    async def embed(self, data: bytes, context: Context) -> pb.EmbedResponse | None:
        async with errors_as_status(context):
            message = await parse_large(pb.EmbedRequest, data)
            check_known(message)
            request_id = adopt_request_id(context, message.request_id)
            request = embedding.request(
                message, timeout_seconds=context.time_remaining(), source=source(context)
            )
            found = await self._service.embedder.embed(request, embedding.vector)
            return embedding.response(found, request_id)

    async def _request(self, message: pb.GenerateRequest, context: Context) -> GenerateRequest:
        request_id = adopt_request_id(context, message.request_id)
        is_text = message.WhichOneof("prompt") != "token_ids"
        return GenerateRequest(
            prompt=await self._text(message) if is_text else tuple(message.token_ids.ids),
            model=message.model,
            sampling=translate.sampling(message.sampling),
            n=message.n if message.HasField("n") else 1,
            add_special_tokens=translate.add_special_tokens(message),
            resume=translate.resume(message),
            request_id=request_id,
            timeout_seconds=context.time_remaining(),
            source=source(context),
        )

    def _check_lengths(self, message: pb.GenerateRequest) -> None:
        """Refuse lists that are too long before they are copied; the service refuses the others."""
        info = self._service.models.resolve(message.model).info
        check_count("stop_token_ids", message.sampling.stop_token_ids, MAX_STOP_TOKEN_IDS)
        for ids in (message.token_ids.ids, *(entry.ids for entry in message.resume.received)):
            check_prompt_length(len(ids), info)

    async def _text(self, message: pb.GenerateRequest | pb.TokenizeRequest) -> str:
        match message.WhichOneof("prompt"):
            case "text":
                return message.text
            case "chat":
                return await self._service.render_chat(translate.conversation(message.chat))
        raise ApiError(ErrorKind.INVALID_REQUEST, "the request has no prompt", param="prompt")

    async def _stream(self, generation: Generation, with_token_ids: bool, context: Context) -> None:
        """Write what comes until the end. What comes during a write is one message afterwards."""
        has_started = False
        while deltas := await generation.take():
            responses = [translate.response(d, with_token_ids=with_token_ids) for d in deltas]
            if not has_started:
                start = partial(translate.start, generation, with_token_ids=with_token_ids)
                num_entries = generation.num_prompt_entries
                responses[0].start.CopyFrom(await self._service.large_work.run(num_entries, start))
                has_started = True
            if generation.is_finished and generation.error is None:
                responses[-1].usage.CopyFrom(translate.usage(generation.usage))
            for response in responses:
                await self._write(context, response)

    async def _write(self, context: Context, response: pb.GenerateResponse) -> None:
        try:
            async with asyncio.timeout(self._write_timeout_seconds):
                await context.write(response)
        except TimeoutError:
            raise ApiError(
                ErrorKind.CANCELLED,
                f"the client read nothing for {self._write_timeout_seconds:g} seconds",
            ) from None


def add_generation(server: grpc.aio.Server, service: Service, write_timeout_seconds: float) -> None:
    """Serve `service` as antipode.v1.Generation on `server`."""
    servicer = GenerationServicer(service, write_timeout_seconds)
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Generate": grpc.unary_stream_rpc_method_handler(
            servicer.generate, response_serializer=pb.GenerateResponse.SerializeToString
        ),
        "Tokenize": grpc.unary_unary_rpc_method_handler(
            servicer.tokenize, response_serializer=pb.TokenizeResponse.SerializeToString
        ),
        "Detokenize": grpc.unary_unary_rpc_method_handler(
            servicer.detokenize, response_serializer=pb.DetokenizeResponse.SerializeToString
        ),
        "Embed": grpc.unary_unary_rpc_method_handler(
            servicer.embed, response_serializer=pb.EmbedResponse.SerializeToString
        ),
    }
    generic = grpc.method_handlers_generic_handler(SERVICE_NAME, handlers)
    server.add_generic_rpc_handlers((generic,))
