"""The chunks of the OpenAI endpoints as events: JSON in, events out, every field checked.

Whatever a chunk lacks, or has of another type, is a ServerError that names the field. Knows neither
HTTP nor what the stream has received.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from antipode.errors import (
    AntipodeError,
    DeadlineExceededError,
    InvalidRequestError,
    OverloadedError,
    ServerError,
    UnavailableError,
)
from antipode.limits import quoted
from antipode.types import (
    CallDelta,
    Delta,
    Event,
    FinishReason,
    Start,
    TokenLogprob,
    Usage,
    resume_exactness,
)

if TYPE_CHECKING:
    # Python 3.10 does not have it.
    from typing import Never

# Errors in the middle of a stream, by the `type` of their body.
TYPES: Mapping[str, type[AntipodeError]] = {
    "invalid_request_error": InvalidRequestError,
    "rate_limit_error": OverloadedError,
    "timeout_error": DeadlineExceededError,
    "service_unavailable_error": UnavailableError,
    "internal_server_error": ServerError,
}
_MAX_TOKEN_ID = 2**32 - 1
_MAX_SEED = 2**64 - 1
_MAX_COUNT = 2**63 - 1
_END = b"[DONE]"

Fields: TypeAlias = Mapping[str, Any]


def is_end(data: bytes) -> bool:
    """Whether an event's data is the mark at the end of a stream."""
    return data.strip() == _END


def parse(data: bytes) -> Iterator[Event]:
    """The events of one chunk: one per choice, then the token counts. Raises AntipodeError."""
    chunk = _decode(data)
    if (error := chunk.get("error")) is not None:
        raise _failure(error)
    choices = _list(chunk, "choices", [])
    for choice in choices:
        fields = _mapping(choice, "choices")
        yield Event(start=_start(chunk, fields), delta=_delta(fields))
    if (usage := chunk.get("usage")) is not None:
        yield Event(usage=_usage(_mapping(usage, "usage")))
    elif not choices:
        _malformed("a chunk has neither choices nor usage")


def _decode(data: bytes) -> Fields:
    try:
        chunk = json.loads(data.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ServerError(f"the server's answer is malformed: {quoted(error)}") from error
    return _mapping(chunk, "the chunk")


def _no_constant(name: str) -> Never:
    raise ValueError(f"{name} is no JSON")


def _failure(error: object) -> AntipodeError:
    """The error of an error chunk; one in another form than the server's is a ServerError."""
    if not isinstance(error, Mapping):
        return ServerError(quoted(error))
    kind = error.get("type")
    named = TYPES.get(kind, ServerError) if isinstance(kind, str) else ServerError
    return named(quoted(error.get("message") or "the server reported an error without a message"))


def _start(chunk: Fields, choice: Fields) -> Start:
    """How the stream started. Every chunk says so, but only the first has the prompt's tokens."""
    prompt = choice if choice.get("prompt_token_ids") else chunk
    return Start(
        request_id=_text(chunk, "id").partition("-")[2],
        model=_text(chunk, "model"),
        model_version=_text(chunk, "model_version"),
        seed=_integer(chunk, "seed", _MAX_SEED),
        prompt_token_ids=_token_ids(prompt, "prompt_token_ids"),
        resume_exactness=resume_exactness(chunk.get("resume_exactness")),
    )


def _delta(choice: Fields) -> Delta:
    reason = _finish_reason(choice.get("finish_reason"))
    said: dict[str, Any] = {}
    if "delta" in choice:
        said = _said(_mapping(choice["delta"], "delta"))
    else:
        said["text"] = _text(choice, "text")
    return Delta(
        index=_integer(choice, "index", _MAX_TOKEN_ID),
        **said,
        token_ids=_token_ids(choice, "token_ids"),
        logprobs=_logprobs(choice.get("logprobs")),
        finish_reason=reason,
        stop_reason=_stop_reason(choice),
    )


def _said(delta: Fields) -> dict[str, Any]:
    """The parts of a chat's delta."""
    return {
        "text": _text(delta, "content", ""),
        "reasoning": _text(delta, "reasoning_content", ""),
        "calls": tuple(_call(_mapping(c, "tool_calls")) for c in _list(delta, "tool_calls", [])),
    }


def _call(call: Fields) -> CallDelta:
    function = _mapping(call.get("function"), "function")
    return CallDelta(
        index=_integer(call, "index", _MAX_TOKEN_ID),
        id=_text(call, "id", ""),
        name=_text(function, "name", ""),
        arguments=_text(function, "arguments", ""),
    )


def _finish_reason(reason: object) -> FinishReason | None:
    match reason:
        case None | "stop" | "length" | "tool_calls":
            return reason
        case "abort" | "error":
            raise UnavailableError("the server aborted the request")
        case _:
            raise _malformed_error(f"finish_reason is {quoted(repr(reason))}")


def _stop_reason(choice: Fields) -> str | int | None:
    match choice.get("stop_reason"):
        case None:
            return None
        case str():
            return _text(choice, "stop_reason")
    return _integer(choice, "stop_reason", _MAX_TOKEN_ID)


def _logprobs(logprobs: object) -> tuple[TokenLogprob, ...]:
    """The log probabilities of a choice, in the chat format or the completions format."""
    if logprobs is None:
        return ()
    fields = _mapping(logprobs, "logprobs")
    if "content" in fields:
        entries = [_mapping(entry, "logprobs.content") for entry in _list(fields, "content", [])]
        return tuple(TokenLogprob(*_pair(entry), _alternatives(entry)) for entry in entries)
    tokens = _list(fields, "tokens")
    numbers, tops = _list(fields, "token_logprobs"), _list(fields, "top_logprobs", [])
    tops = tops or [{}] * len(tokens)
    if not len(tokens) == len(numbers) == len(tops):
        _malformed("logprobs has lists of different lengths")
    return tuple(
        TokenLogprob(
            *_pair({"token": token, "logprob": number}),
            tuple(_pair({"token": name, "logprob": top[name]}) for name in _mapping(top, "top")),
        )
        for token, number, top in zip(tokens, numbers, (top or {} for top in tops), strict=True)
    )


def _alternatives(entry: Fields) -> tuple[tuple[str, float], ...]:
    tops = _list(entry, "top_logprobs", [])
    return tuple(_pair(_mapping(top, "top_logprobs")) for top in tops)


def _pair(entry: Fields) -> tuple[str, float]:
    """A token's text and log probability. JSON has no infinity: null stands for it."""
    number = entry.get("logprob")
    if number is None:
        return _text(entry, "token"), float("-inf")
    if not isinstance(number, int | float) or isinstance(number, bool):
        _malformed(f"logprob is {quoted(repr(number))}")
    try:
        return _text(entry, "token"), float(number)
    except OverflowError:
        _malformed("logprob is no log probability")


def _usage(usage: Fields) -> Usage:
    details = _mapping(usage.get("prompt_tokens_details") or {}, "prompt_tokens_details")
    cached = 0 if details.get("cached_tokens") is None else details["cached_tokens"]
    return Usage(
        num_prompt_tokens=_integer(usage, "prompt_tokens", _MAX_COUNT),
        num_generated_tokens=_integer(usage, "completion_tokens", _MAX_COUNT),
        num_cached_tokens=_integer({"cached_tokens": cached}, "cached_tokens", _MAX_COUNT),
    )


def _token_ids(fields: Fields, name: str) -> tuple[int, ...]:
    values = _list(fields, name, [])
    if any(type(value) is not int or not 0 <= value <= _MAX_TOKEN_ID for value in values):
        _malformed(f"{name} has a value that is no token id")
    return tuple(values)


def _integer(fields: Fields, name: str, high: int) -> int:
    value = fields.get(name)
    if type(value) is not int or not 0 <= value <= high:
        _malformed(f"{name} is {quoted(repr(value))}; it must be an integer from 0 to {high}")
    return value


def _text(fields: Fields, name: str, default: str | None = None) -> str:
    """Text that can be written as UTF-8, which half of a surrogate pair cannot."""
    value = fields.get(name)
    value = default if value is None else value
    if not isinstance(value, str):
        _malformed(f"{name} is {quoted(repr(value))}; it must be text")
    try:
        value.encode()
    except UnicodeEncodeError:
        _malformed(f"{name} is no text: it has half of a surrogate pair")
    return value


def _list(fields: Fields, name: str, default: list[Any] | None = None) -> list[Any]:
    value = fields.get(name)
    value = default if value is None else value
    if not isinstance(value, list):
        _malformed(f"{name} is {quoted(repr(value))}; it must be a list")
    return value


def _mapping(value: object, name: str) -> Fields:
    if not isinstance(value, Mapping):
        _malformed(f"{name} is {quoted(repr(value))}; it must be an object")
    return value


def _malformed(what: str) -> Never:
    raise _malformed_error(what)


def _malformed_error(what: str) -> ServerError:
    return ServerError(f"the server's answer is malformed: {what}")
