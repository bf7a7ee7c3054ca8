"""The OpenAI endpoints: turns requests into bodies, answers into events, statuses into errors.

The client asks for no compression and inflates nothing. Knows neither retries nor what the stream
has received.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import Any

import httpx

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
from antipode.limits import MAX_MESSAGE_BYTES, MAX_REFUSAL_BYTES, quoted
from antipode.tls import Tls
from antipode.transports.chunks import is_end, parse
from antipode.transports.embedding_bodies import embedding_body, read_embeddings
from antipode.transports.grammars import http_grammar
from antipode.transports.message_bodies import message_bodies
from antipode.transports.refusals import sentence
from antipode.transports.sse import EventParser
from antipode.types import EmbeddingRequest, Embeddings, Event, Request, Resume, is_chat

MODELS = "/v1/models"
COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"
STATUSES: Mapping[int, type[AntipodeError]] = {
    401: AuthenticationError,
    403: AuthenticationError,
    404: NotFoundError,
    409: VersionGoneError,
    429: OverloadedError,
    500: ServerError,
    502: UnavailableError,
    503: UnavailableError,
    504: DeadlineExceededError,
}
EVENT_STREAM = "text/event-stream"
CONNECT_SECONDS = 5.0
# How long the client waits for the model's name before the first request without one.
NAME_SECONDS = 5.0
# What httpx reports of bytes that are no HTTP/1.1, and of a port that does not speak TLS.
NO_HTTP = "illegal request line"
NO_TLS = "WRONG_VERSION_NUMBER"


class HttpTransport:
    """Connections to one server. Reading has no timeout, because the stream watches for silence."""

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str],
        *,
        tls: Tls | None = None,
        trust_env: bool,
    ) -> None:
        self._client = httpx.AsyncClient(
            verify=True if tls is None else tls.context(),
            base_url=base_url,
            headers=headers,
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            trust_env=trust_env,
        )
        self._model = ""

    async def call(
        self, request: Request, resume: Resume | None, timeout: float | None
    ) -> AsyncGenerator[Event]:
        model = request.model or (resume.start.model if resume is not None else self._model)
        content = _encode(request, resume, model)
        try:
            if not model:
                content = _encode(request, resume, await self._ask_model())
            post = self._client.stream(
                "POST", _path(request), content=content, headers=_headers(timeout)
            )
            async with post as response:
                await _check(response)
                async for event in _events(response):
                    yield event
        except NotFoundError:
            self._model = ""
            raise
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as error:
            raise _broken(error) from error

    async def _ask_model(self) -> str:
        """The model's name: endpoint pickers refuse a request without one. Empty if unknown."""
        get = self._client.stream("GET", MODELS, headers=_headers(None), timeout=NAME_SECONDS)
        async with get as response:
            self._model = _served(await _beginning(response))
        return self._model

    async def embed(self, request: EmbeddingRequest, timeout: float | None) -> Embeddings:
        headers = {**_headers(timeout), "accept": "application/json"}
        try:
            model = request.model or self._model or await self._ask_model()
            content = embedding_body(replace(request, model=model))
            post = self._client.stream("POST", EMBEDDINGS, content=content, headers=headers)
            async with post as response:
                if response.status_code != 200:
                    raise _refusal(response, await _beginning(response))
                answer = await _beginning(response, MAX_MESSAGE_BYTES)
        except NotFoundError:
            self._model = ""
            raise
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as error:
            raise _broken(error) from error
        return read_embeddings(answer)

    async def aclose(self) -> None:
        await self._client.aclose()


def _served(content: bytes) -> str:
    """The model that is served; the other entries are further versions of it."""
    try:
        entries = [(entry["id"], entry.get("root")) for entry in json.loads(content)["data"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ""
    names = [str(name) for name, root in entries if root in (name, None)]
    return names[0] if names else ""


def _broken(error: Exception) -> AntipodeError:
    words = quoted(error) or type(error).__name__
    if NO_TLS in words:
        return NotFoundError(f"this port does not speak TLS: use http:// ({words})")
    if NO_HTTP in words:
        words = f"this port does not speak HTTP/1.1: use grpc://, or the HTTP port ({words})"
    return UnavailableError(words)


def _encode(request: Request, resume: Resume | None, model: str) -> bytes:
    try:
        fields = body(request, resume, model)
        return json.dumps(fields, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise InvalidRequestError(f"the request cannot be sent: {error}") from error


def body(request: Request, resume: Resume | None, model: str) -> dict[str, Any]:
    """The request's body; a resumed one has the first server's prompt tokens and seed."""
    # Over gRPC an unset max_tokens is the rest of the context, which is -1 here.
    fields: dict[str, Any] = {"max_tokens": -1, **request.options}
    if resume is not None:
        fields["seed"] = resume.start.seed
        fields["resume"] = {
            "model_version": resume.start.model_version,
            "token_ids": resume.received,
            "prompt_token_ids": resume.start.prompt_token_ids,
        }
    if bias := fields.get("logit_bias"):
        fields["logit_bias"] = {str(token_id): value for token_id, value in bias.items()}
    if (grammar := fields.pop("grammar", None)) is not None:
        fields["structured_outputs"] = http_grammar(grammar)
    if is_chat(request.prompt) and "logprobs" in fields:
        fields["top_logprobs"], fields["logprobs"] = fields["logprobs"], True
    if request.request_id:
        fields["request_id"] = request.request_id
    return {
        **fields,
        **_prompt(request.prompt),
        **({"model": model} if model else {}),
        "n": request.n,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
    }


def _prompt(prompt: Any) -> dict[str, Any]:
    return {"messages": message_bodies(prompt)} if is_chat(prompt) else {"prompt": prompt}


def _path(request: Request) -> str:
    return CHAT if is_chat(request.prompt) else COMPLETIONS


def _headers(timeout: float | None) -> dict[str, str]:
    """What the answer may be, and the deadline in Envoy's format."""
    headers = {
        "content-type": "application/json",
        "accept": EVENT_STREAM,
        "accept-encoding": "identity",
    }
    if timeout is not None:
        headers["x-envoy-expected-rq-timeout-ms"] = f"{timeout * 1000:.0f}"
    return headers


async def _check(response: httpx.Response) -> None:
    """Raises the error of an answer that is no plain stream of events."""
    if response.status_code != 200:
        raise _refusal(response, await _beginning(response))
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != EVENT_STREAM:
        raise ServerError(f"the answer is {quoted(media_type) or 'untyped'}, not {EVENT_STREAM}")
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", ""):
        raise ServerError(
            f"the answer is compressed ({quoted(encoding)}), though the client asked for identity"
        )


async def _beginning(response: httpx.Response, max_bytes: int = MAX_REFUSAL_BYTES) -> bytes:
    """As much of a body as the client takes; of a refusal, what can hold the server's sentence."""
    content = bytearray()
    async for part in response.aiter_raw():
        content += part[: max_bytes - len(content)]
        if len(content) == max_bytes:
            break
    return bytes(content)


async def _events(response: httpx.Response) -> AsyncGenerator[Event]:
    """The events up to the end mark; raises an error if the answer ends without the mark."""
    parser = EventParser()
    async for part in response.aiter_raw():
        for data in parser.feed(part):
            if is_end(data):
                return
            # A proxy may keep a connection open with events that say nothing.
            if data:
                for event in parse(data):
                    yield event
    raise UnavailableError("the stream broke off")


def _refusal(response: httpx.Response, content: bytes) -> AntipodeError:
    """A status as an error. Other 4xx mean a wrong request, other 5xx a proxy in trouble."""
    status = response.status_code
    other = InvalidRequestError if 400 <= status < 500 else UnavailableError
    retry_after = response.headers.get("retry-after", "")
    is_compressed = "content-encoding" in response.headers
    return STATUSES.get(status, other)(
        sentence(status, content, is_compressed=is_compressed),
        retry_after=float(retry_after) if retry_after.isdecimal() else 0.0,
    )
