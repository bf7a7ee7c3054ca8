"""The OpenAI endpoints: turns requests into bodies, chunks into events, statuses into errors.

Knows neither retries nor what the stream has received.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
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
from antipode.types import Delta, Event, Request, Resume, Start, TokenLogprob, Usage

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
# Errors in the middle of a stream, by the `type` of their body.
TYPES: Mapping[str, type[AntipodeError]] = {
    "invalid_request_error": InvalidRequestError,
    "rate_limit_error": OverloadedError,
    "timeout_error": DeadlineExceededError,
    "service_unavailable_error": UnavailableError,
    "internal_server_error": ServerError,
}
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
        try:
            post = self._client.stream(
                "POST", _path(request), json=body(request, resume), headers=_headers(timeout)
            )
            async with post as response:
                if response.status_code != 200:
                    raise _refusal(response, await response.aread())
                async for event in _events(response.aiter_lines()):
                    yield event
        except httpx.HTTPError as error:
            raise UnavailableError(str(error) or type(error).__name__) from error

    async def aclose(self) -> None:
        await self._client.aclose()


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
    """The header with the deadline, in Envoy's format."""
    return {} if timeout is None else {"x-envoy-expected-rq-timeout-ms": f"{timeout * 1000:.0f}"}


async def _events(lines: AsyncIterator[str]) -> AsyncIterator[Event]:
    """The data up to the end mark; raises an error if the stream ends without the mark."""
    async for line in lines:
        if not line.startswith("data: "):
            continue
        data = line.removeprefix("data: ")
        if data == "[DONE]":
            return
        chunk = json.loads(data)
        if error := chunk.get("error"):
            raise TYPES.get(error["type"], ServerError)(error["message"])
        for event in events(chunk):
            yield event
    raise UnavailableError("the stream broke off")


def events(chunk: Mapping[str, Any]) -> list[Event]:
    """One event per choice, or the final event with the token counts."""
    if usage := chunk.get("usage"):
        return [Event(usage=_usage(usage))]
    return [Event(start=_start(chunk, choice), delta=_delta(choice)) for choice in chunk["choices"]]


def _start(chunk: Mapping[str, Any], choice: Mapping[str, Any]) -> Start:
    """How the stream started. Every chunk says so, but only the first has the prompt's tokens."""
    prompt = choice.get("prompt_token_ids") or chunk.get("prompt_token_ids") or ()
    return Start(
        request_id=chunk["id"].partition("-")[2],
        model=chunk["model"],
        model_version=chunk["model_version"],
        seed=chunk["seed"],
        prompt_token_ids=tuple(prompt),
    )


def _delta(choice: Mapping[str, Any]) -> Delta:
    if choice["finish_reason"] in ("abort", "error"):
        raise UnavailableError("the server aborted the request")
    text = choice["delta"].get("content", "") if "delta" in choice else choice["text"]
    return Delta(
        index=choice["index"],
        text=text,
        token_ids=tuple(choice.get("token_ids") or ()),
        logprobs=_logprobs(choice.get("logprobs")),
        finish_reason=choice["finish_reason"],
        stop_reason=choice.get("stop_reason"),
    )


def _logprobs(logprobs: Mapping[str, Any] | None) -> tuple[TokenLogprob, ...]:
    """The log probabilities of a choice, in the chat format or the completions format."""
    if logprobs is None:
        return ()
    if "content" in logprobs:
        return tuple(
            TokenLogprob(
                entry["token"],
                entry["logprob"],
                tuple((top["token"], top["logprob"]) for top in entry["top_logprobs"]),
            )
            for entry in logprobs["content"]
        )
    lists = logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"]
    return tuple(
        TokenLogprob(token, logprob, tuple(top.items()))
        for token, logprob, top in zip(*lists, strict=True)
    )


def _usage(usage: Mapping[str, Any]) -> Usage:
    return Usage(
        num_prompt_tokens=usage["prompt_tokens"],
        num_generated_tokens=usage["completion_tokens"],
        num_cached_tokens=usage["prompt_tokens_details"]["cached_tokens"],
    )


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
        return str(json.loads(content)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return ""
