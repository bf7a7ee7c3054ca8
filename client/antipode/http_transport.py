"""The OpenAI endpoints: turns requests into bodies, answers into events, statuses into errors.

The client asks for no compression and inflates nothing. Knows neither retries nor what the stream
has received.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import httpx

from antipode.chunks import is_end, parse
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
from antipode.grammars import http_grammar
from antipode.limits import MAX_REFUSAL_BYTES, quoted
from antipode.sse import EventParser
from antipode.types import Event, Request, Resume

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
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


class HttpTransport:
    """Connections to one server. Reading has no timeout, because the stream watches for silence."""

    def __init__(self, base_url: str, headers: Mapping[str, str], *, trust_env: bool) -> None:
        self._client = httpx.AsyncClient(
            base_url=base_url,
            headers=headers,
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            trust_env=trust_env,
        )

    async def call(
        self, request: Request, resume: Resume | None, timeout: float | None
    ) -> AsyncGenerator[Event]:
        content = _encode(request, resume)
        try:
            post = self._client.stream(
                "POST", _path(request), content=content, headers=_headers(timeout)
            )
            async with post as response:
                await _check(response)
                async for event in _events(response):
                    yield event
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as error:
            raise UnavailableError(quoted(error) or type(error).__name__) from error

    async def aclose(self) -> None:
        await self._client.aclose()


def _encode(request: Request, resume: Resume | None) -> bytes:
    try:
        return json.dumps(body(request, resume), allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise InvalidRequestError(f"the request cannot be sent: {error}") from error


def body(request: Request, resume: Resume | None) -> dict[str, Any]:
    """The request's body; a resumed one has the first server's prompt tokens and seed."""
    fields: dict[str, Any] = dict(request.options)
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
    if _is_chat(request) and "logprobs" in fields:
        fields["top_logprobs"], fields["logprobs"] = fields["logprobs"], True
    if request.request_id:
        fields["request_id"] = request.request_id
    return {
        **fields,
        "messages" if _is_chat(request) else "prompt": request.prompt,
        "model": request.model,
        "n": request.n,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
    }


def _is_chat(request: Request) -> bool:
    prompt: Any = request.prompt
    return not isinstance(prompt, str) and bool(prompt) and isinstance(prompt[0], Mapping)


def _path(request: Request) -> str:
    return CHAT if _is_chat(request) else COMPLETIONS


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


async def _beginning(response: httpx.Response) -> bytes:
    """As much of a refusal's body as can hold the server's sentence."""
    content = b""
    async for part in response.aiter_raw():
        content += part[: MAX_REFUSAL_BYTES - len(content)]
        if len(content) == MAX_REFUSAL_BYTES:
            break
    return content


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
    return STATUSES.get(status, other)(
        _message(content) or f"HTTP status {status}",
        retry_after=float(retry_after) if retry_after.isdecimal() else 0.0,
    )


def _message(content: bytes) -> str:
    """The server's error message; empty for a proxy's error page."""
    try:
        return quoted(json.loads(content)["error"]["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
