"""antipode.v1.Generation over the service: one call is one generation.

Knows messages and calls; what a request means and whether it may run is the service's business.
Requests arrive as bytes, so that bytes that are no message get an answer like every other fault.
"""

from __future__ import annotations

import asyncio
from functools import partial

import grpc

from server.api.antipode_v1 import chats, embedding, translate
from server.api.antipode_v1.answers import AnswerWriter
from server.api.chat.fitted_request import fitted
from server.api.chat.format import ChatPrompt
from server.api.generation_service import GenerationService
from server.api.grpc.answered import Cost, answered
from server.api.grpc.handlers import add_service, streaming, unary
from server.api.grpc.messages import MAX_INLINE_BYTES, parse_large
from server.api.grpc.peer import source
from server.api.grpc.status import REQUEST_ID_KEY, Context, adopt_request_id
from server.api.grpc.unknown_fields import check_known
from server.api.grpc.writing import Writer
from server.api.load_reports import LoadReports
from server.api.requests.generation import GenerateRequest
from server.api.requests.validation import check_count, check_prompt_length, invalid
from server.api.streams.generation import Generation
from server.errors import ApiError
from server.link.sampling import MAX_STOP_TOKEN_IDS
from server.pb.antipode.v1 import generation_pb2 as pb

# Reserved for what resuming may need: an older server resumes without it.
_PASSED = {pb.GenerateRequest.DESCRIPTOR.full_name: range(12, 16)}
_check_known = partial(check_known, passed=_PASSED)
SERVICE_NAME: str = pb.DESCRIPTOR.services_by_name["Generation"].full_name


class GenerationServicer:
    """The methods. A call that cannot be written to for `write_timeout_seconds` is ended."""

    def __init__(
        self, service: GenerationService, loads: LoadReports, write_timeout_seconds: float
    ) -> None:
        self._service, self._loads = service, loads
        self._write_timeout_seconds = write_timeout_seconds

    async def generate(self, data: bytes, context: Context) -> None:
        async with answered(context, self._loads) as cost:
            message = await parse_large(pb.GenerateRequest, data, _check_known)
            if len(data) > MAX_INLINE_BYTES:
                self._check_lengths(message)
            request_id = adopt_request_id(context, message.request_id)
            chat = await self._chat(message)
            request = _request(message, chat, request_id, context)
            # Leaving this block, for whatever reason, is what tells the engine to stop.
            async with await self._service.start(request) as generation:
                await context.send_initial_metadata(((REQUEST_ID_KEY, request_id),))
                with_ids = message.return_token_ids
                answers = AnswerWriter(generation, chat, with_token_ids=with_ids)
                await self._stream(generation, answers, with_ids, context, cost)

    async def tokenize(self, data: bytes, context: Context) -> pb.TokenizeResponse | None:
        async with answered(context, self._loads):
            message = await parse_large(pb.TokenizeRequest, data, check_known)
            adopt_request_id(context)
            model = self._service.models.find(message.model)
            text = await self._text(message)
            token_ids = await self._service.tokenize(
                text, add_special_tokens=translate.add_special_tokens(message)
            )
            return pb.TokenizeResponse(token_ids=token_ids, max_model_len=model.max_model_len)

    async def detokenize(self, data: bytes, context: Context) -> pb.DetokenizeResponse | None:
        async with answered(context, self._loads):
            message = await parse_large(pb.DetokenizeRequest, data)
            adopt_request_id(context)
            self._service.models.find(message.model)
            self._service.check_num_tokens(len(message.token_ids))
            text = await self._service.detokenize(list(message.token_ids))
            return pb.DetokenizeResponse(text=text)

    async def embed(self, data: bytes, context: Context) -> pb.EmbedResponse | None:
        async with answered(context, self._loads):
            message = await parse_large(pb.EmbedRequest, data, check_known)
            request_id = adopt_request_id(context, message.request_id)
            request = embedding.request(
                message, timeout_seconds=context.time_remaining(), source=source(context)
            )
            found = await self._service.embedder.embed(request, embedding.vector)
            return embedding.response(found, request_id)

    def _check_lengths(self, message: pb.GenerateRequest) -> None:
        """Refuse lists that are too long before they are copied; the service refuses the others."""
        info = self._service.models.resolve(message.model).info
        check_count("stop_token_ids", message.sampling.stop_token_ids, MAX_STOP_TOKEN_IDS)
        for entry in (message.token_ids, message.resumed_prompt, *message.resume.received):
            check_prompt_length(len(entry.ids), info)

    async def _chat(self, message: pb.GenerateRequest) -> ChatPrompt | None:
        """The prompt of a chat, and how to read its answers; None for another prompt."""
        if message.WhichOneof("prompt") != "chat":
            return None
        conversation = await asyncio.to_thread(chats.conversation, message.chat)
        resumed = message.resumed_prompt.ids if message.HasField("resumed_prompt") else None
        return await self._service.prepare_chat(conversation, resumed)

    async def _text(self, message: pb.TokenizeRequest) -> str:
        match message.WhichOneof("prompt"):
            case "text":
                return message.text
            case "chat":
                conversation = await asyncio.to_thread(chats.conversation, message.chat)
                return await self._service.render_chat(conversation)
        raise _no_prompt()

    async def _stream(
        self,
        generation: Generation,
        answers: AnswerWriter,
        with_token_ids: bool,
        context: Context,
        cost: Cost,
    ) -> None:
        """Write what comes until the end. What comes during a write is one message afterwards."""
        has_started, writer = False, Writer(context, self._write_timeout_seconds)
        while deltas := await generation.take():
            responses = [answers.response(delta) for delta in deltas]
            if not has_started:
                start = partial(translate.start, generation, with_token_ids=with_token_ids)
                num_entries = generation.num_prompt_entries
                responses[0].start.CopyFrom(await self._service.large_work.run(num_entries, start))
                has_started = True
            if generation.is_finished and generation.error is None:
                responses[-1].usage.CopyFrom(translate.usage(generation.usage))
            for response in responses:
                await writer.write(response)
            cost.usage = generation.usage


def _request(
    message: pb.GenerateRequest, chat: ChatPrompt | None, request_id: str, context: Context
) -> GenerateRequest:
    """The service's request, fitted to the reading of a chat's answers."""
    request = GenerateRequest(
        prompt=_prompt(message, chat),
        model=message.model,
        sampling=translate.sampling(message.sampling),
        n=message.n if message.HasField("n") else 1,
        add_special_tokens=translate.add_special_tokens(message),
        resume=translate.resume(message),
        request_id=request_id,
        timeout_seconds=context.time_remaining(),
        source=source(context),
    )
    return request if chat is None else fitted(request, chat)


def _prompt(message: pb.GenerateRequest, chat: ChatPrompt | None) -> str | tuple[int, ...]:
    if message.HasField("resumed_prompt"):
        if not message.HasField("resume"):
            raise invalid("resumed_prompt goes with resume only; leave it out", "resumed_prompt")
        return tuple(message.resumed_prompt.ids)
    if chat is not None:
        return chat.text
    match message.WhichOneof("prompt"):
        case "text":
            return message.text
        case "token_ids":
            return tuple(message.token_ids.ids)
    raise _no_prompt()


def _no_prompt() -> ApiError:
    return invalid("the request has no prompt", "prompt")


def add_generation(
    server: grpc.aio.Server,
    service: GenerationService,
    loads: LoadReports,
    write_timeout_seconds: float,
) -> None:
    """Serve `service` as antipode.v1.Generation on `server`."""
    servicer = GenerationServicer(service, loads, write_timeout_seconds)
    handlers = {
        "Generate": streaming(servicer.generate),
        "Tokenize": unary(servicer.tokenize),
        "Detokenize": unary(servicer.detokenize),
        "Embed": unary(servicer.embed),
    }
    add_service(server, SERVICE_NAME, handlers)
