"""antipode.v1.Generation: turns requests into messages, messages into events, statuses into errors.

Knows neither retries nor what the stream has received.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from antipode._pb.antipode.v1 import generation_pb2 as pb
from antipode.errors import (
    AntipodeError,
    AuthenticationError,
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    ServerError,
    UnavailableError,
    VersionGoneError,
)
from antipode.limits import MAX_MESSAGE_BYTES, quoted
from antipode.tls import Tls
from antipode.transports.chats import chat
from antipode.transports.grammars import grpc_grammar
from antipode.types import (
    CHAT_OPTIONS,
    CallDelta,
    Delta,
    EmbeddingRequest,
    Embeddings,
    Event,
    FinishReason,
    Request,
    Resume,
    Start,
    TokenLogprob,
    Usage,
    is_chat,
    resume_exactness,
)

GENERATE = "/antipode.v1.Generation/Generate"
EMBED = "/antipode.v1.Generation/Embed"
CODES: Mapping[grpc.StatusCode, type[AntipodeError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequestError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.UNIMPLEMENTED: NotFoundError,
    grpc.StatusCode.UNAUTHENTICATED: AuthenticationError,
    grpc.StatusCode.PERMISSION_DENIED: AuthenticationError,
    grpc.StatusCode.FAILED_PRECONDITION: VersionGoneError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.INTERNAL: ServerError,
}
FINISH_REASONS: Mapping[int, FinishReason | None] = {
    pb.FINISH_REASON_UNSPECIFIED: None,
    pb.FINISH_REASON_STOP: "stop",
    pb.FINISH_REASON_LENGTH: "length",
    pb.FINISH_REASON_TOOL_CALLS: "tool_calls",
}
PUSHBACK_KEY = "grpc-retry-pushback-ms"
# The retry policy decides when to try again, so the channel must not back off by itself.
CHANNEL_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
]
# What grpc reports where the port does not speak gRPC, or not in the address's way.
_HTTP_PORT = "this port speaks HTTP/1.1: use http:// or https://, or the gRPC port"
WRONG_ADDRESS: Mapping[str, str] = {
    "http1.x server": _HTTP_PORT,
    # HTTP_1_1_REQUIRED, of a server that says so in HTTP/2's frames.
    "Error code: 13": _HTTP_PORT,
    "http2 header with status": "this port has no gRPC service: use http://, or the gRPC port",
    "WRONG_VERSION_NUMBER": "this port does not speak TLS: use grpc://",
}
# How grpc refuses a message that is too long: as if the server's queue were full. The server's end
# refuses the request, and this end an answer of over MAX_MESSAGE_BYTES.
OVERSIZE, OVERSIZE_REQUEST = "larger than max", "SERVER: "


class GrpcTransport:
    """One channel to `target`, host:port; without `tls` in clear text."""

    def __init__(self, target: str, headers: Mapping[str, str], *, tls: Tls | None) -> None:
        self._metadata = tuple((key.lower(), value) for key, value in headers.items())
        self._channel = (
            grpc.aio.secure_channel(
                target, grpc.ssl_channel_credentials(*tls.texts()), CHANNEL_OPTIONS
            )
            if tls is not None
            else grpc.aio.insecure_channel(target, CHANNEL_OPTIONS)
        )
        self._generate: Any = self._channel.unary_stream(
            GENERATE,
            request_serializer=pb.GenerateRequest.SerializeToString,
        )
        self._embed: Any = self._channel.unary_unary(
            EMBED, request_serializer=pb.EmbedRequest.SerializeToString
        )

    async def call(
        self, request: Request, resume: Resume | None, timeout: float | None
    ) -> AsyncGenerator[Event]:
        call = self._generate(message(request, resume), timeout=timeout, metadata=self._metadata)
        try:
            # Bytes: grpc itself would log a traceback for bytes that are no message.
            async for data in call:
                yield event(parse(data))
        except grpc.aio.AioRpcError as error:
            raise _error(error) from error
        finally:
            call.cancel()

    async def embed(self, request: EmbeddingRequest, timeout: float | None) -> Embeddings:
        try:
            message = _embed_message(request)
            data = await self._embed(message, timeout=timeout, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise _error(error) from error
        return _embeddings(data)

    async def aclose(self) -> None:
        await self._channel.close()


def message(request: Request, resume: Resume | None) -> pb.GenerateRequest:
    """The request's message; a resumed one has the first server's prompt tokens and seed."""
    given = request.options.items()
    options: dict[str, Any] = {k: v for k, v in given if k not in CHAT_OPTIONS}
    if resume is not None:
        options["seed"] = resume.start.seed
    if request.options.get("grammar") is not None:
        options["grammar"] = grpc_grammar(request.options["grammar"])
    try:
        built = pb.GenerateRequest(
            model=request.model or (resume.start.model if resume is not None else ""),
            n=request.n,
            request_id=request.request_id,
            sampling=pb.Sampling(**options),
            return_token_ids=True,
        )
        _set_prompt(built, request, resume)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise InvalidRequestError(f"the request cannot be sent: {error}") from error
    if resume is not None:
        built.resume.model_version = resume.start.model_version
        for token_ids in resume.received:
            built.resume.received.add(ids=token_ids)
    return built


def _set_prompt(built: pb.GenerateRequest, request: Request, resume: Resume | None) -> None:
    """The server does not render a resumed chat again, but reads its answer as the chat's."""
    prompt: Any = request.prompt
    if is_chat(prompt):
        built.chat.CopyFrom(chat(prompt, request.options))
        if resume is not None:
            built.resumed_prompt.ids.extend(resume.start.prompt_token_ids)
    elif resume is not None:
        built.token_ids.ids.extend(resume.start.prompt_token_ids)
    elif isinstance(prompt, str):
        built.text = prompt
    else:
        built.token_ids.ids.extend(prompt)


def parse(data: bytes) -> pb.GenerateResponse:
    """Raises ServerError for bytes that are no message."""
    try:
        return pb.GenerateResponse.FromString(data)
    except DecodeError as error:
        raise ServerError(f"the server's answer is malformed: {error}") from error


def event(response: pb.GenerateResponse) -> Event:
    """Raises UnavailableError for a choice that the server aborted."""
    if response.finish_reason == pb.FINISH_REASON_ABORT:
        raise UnavailableError("the server aborted the request")
    if response.finish_reason not in FINISH_REASONS:
        raise ServerError(
            f"the server's answer is malformed: finish_reason is {response.finish_reason}"
        )
    stop = response.WhichOneof("stop_reason")
    return Event(
        start=_start(response.start) if response.HasField("start") else None,
        delta=Delta(
            index=response.index,
            text=response.text,
            reasoning=response.reasoning,
            calls=tuple(
                CallDelta(index=call.index, id=call.id, name=call.name, arguments=call.arguments)
                for call in response.calls
            ),
            token_ids=tuple(response.token_ids),
            logprobs=tuple(map(_logprob, response.logprobs)),
            finish_reason=FINISH_REASONS[response.finish_reason],
            stop_reason=getattr(response, stop) if stop else None,
        ),
        usage=_usage(response.usage) if response.HasField("usage") else None,
    )


def _embed_message(request: EmbeddingRequest) -> pb.EmbedRequest:
    try:
        return pb.EmbedRequest(
            inputs=[
                pb.EmbedInput(text=each)
                if isinstance(each, str)
                else pb.EmbedInput(token_ids=pb.TokenIds(ids=each))
                for each in request.inputs
            ],
            model=request.model,
            dimensions=request.dimensions,
            prompt_name=request.prompt_name,
            max_tokens=request.max_tokens,
        )
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"the request cannot be sent: {error}") from error


def _embeddings(data: bytes) -> Embeddings:
    try:
        response = pb.EmbedResponse.FromString(data)
    except DecodeError as error:
        raise ServerError(f"the server's answer is malformed: {error}") from error
    return Embeddings(
        vectors=[list(each.values) for each in response.embeddings],
        model=response.model,
        model_version=response.model_version,
        num_prompt_tokens=response.num_prompt_tokens,
    )


def _start(start: pb.Start) -> Start:
    return Start(
        request_id=start.request_id,
        model=start.model,
        model_version=start.model_version,
        seed=start.seed,
        prompt_token_ids=tuple(start.prompt_token_ids),
        resume_exactness=resume_exactness(start.resume_exactness),
    )


def _usage(usage: pb.Usage) -> Usage:
    return Usage(
        num_prompt_tokens=usage.num_prompt_tokens,
        num_generated_tokens=usage.num_generated_tokens,
        num_cached_tokens=usage.num_cached_tokens,
    )


def _logprob(entry: pb.TokenLogprob) -> TokenLogprob:
    return TokenLogprob(entry.token, entry.logprob, tuple((t.token, t.logprob) for t in entry.top))


def _error(error: grpc.aio.AioRpcError) -> AntipodeError:
    """A status as an error. Codes outside of the table come from the network or a proxy."""
    details = quoted(error.details() or error.code().name)
    for sign, advice in WRONG_ADDRESS.items():
        if sign in details:
            return NotFoundError(f"{advice} ({details})")
    kind = CODES.get(error.code(), UnavailableError)
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and OVERSIZE in details:
        kind = InvalidRequestError if details.startswith(OVERSIZE_REQUEST) else ServerError
    pushback = str(dict(error.trailing_metadata() or ()).get(PUSHBACK_KEY, "0"))
    retry_after = float(pushback) / 1000 if pushback.isdecimal() else 0.0
    return kind(details, retry_after=retry_after)
