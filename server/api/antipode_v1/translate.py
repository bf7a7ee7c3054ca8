"""Between the messages of antipode.v1 and the service's own types.

Pure functions, field by field. Ranges and vocabularies are the service's business; refused here
is only what the service's types cannot express.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from server.api.requests.generation import Delta, ResumePoint, Sampling, TokenLogprob, Usage
from server.api.streams.generation import Generation
from server.errors import ApiError, ErrorKind
from server.link.sampling import Grammar
from server.pb.antipode.v1 import generation_pb2 as pb

FINISH_REASONS: Mapping[str | None, pb.FinishReason] = {
    None: pb.FINISH_REASON_UNSPECIFIED,
    "stop": pb.FINISH_REASON_STOP,
    "length": pb.FINISH_REASON_LENGTH,
    "abort": pb.FINISH_REASON_ABORT,
    "tool_calls": pb.FINISH_REASON_TOOL_CALLS,
}


def sampling(message: pb.Sampling) -> Sampling:
    """The options that are set; their names are the same on both sides."""
    given: dict[str, Any] = {field.name: value for field, value in message.ListFields()}
    given["stop"] = tuple(message.stop)
    given["stop_token_ids"] = tuple(message.stop_token_ids)
    given["allowed_token_ids"] = tuple(message.allowed_token_ids)
    given["bad_words"] = tuple(message.bad_words)
    given["logit_bias"] = dict(message.logit_bias)
    given["grammar"] = grammar(message.grammar) if message.HasField("grammar") else None
    return Sampling(**given)


def grammar(message: pb.Grammar) -> Grammar | None:
    """The form of the text; ApiError for one of no kind."""
    match message.WhichOneof("kind"):
        case None:
            raise ApiError(ErrorKind.INVALID_REQUEST, "the grammar has no kind", param="grammar")
        case "json_object":
            return Grammar("json_object", "") if message.json_object else None
        case "choice":
            return Grammar("choice", json.dumps(list(message.choice.texts)))
        case kind:
            return Grammar(kind, getattr(message, kind))


def resume(message: pb.GenerateRequest) -> ResumePoint | None:
    """What was received of a stream that is to go on, None for a new one."""
    if not message.HasField("resume"):
        return None
    return ResumePoint(
        version=message.resume.model_version,
        received=tuple(tuple(entry.ids) for entry in message.resume.received),
    )


def add_special_tokens(message: pb.GenerateRequest | pb.TokenizeRequest) -> bool:
    """A rendered chat has its special tokens already."""
    if message.WhichOneof("prompt") == "chat":
        return False
    return message.add_special_tokens if message.HasField("add_special_tokens") else True


def start(generation: Generation, *, with_token_ids: bool) -> pb.Start:
    """What the first message of a call says of it."""
    prompt_token_ids = generation.prompt_token_ids
    prompt_logprobs = zip(prompt_token_ids, generation.prompt_logprobs or (), strict=False)
    return pb.Start(
        request_id=generation.request.request_id,
        model=generation.model,
        model_version=generation.version,
        seed=generation.seed % 2**64,
        prompt_logprobs=[
            pb.TokenLogprob(token_id=token_id) if entry is None else token_logprob(entry)
            for token_id, entry in prompt_logprobs
        ],
        prompt_token_ids=prompt_token_ids if with_token_ids else (),
        resume_exactness=generation.resume_exactness or "",
    )


def response(delta: Delta, *, with_token_ids: bool) -> pb.GenerateResponse:
    """One message; `start` and `usage` are for the caller to add."""
    message = pb.GenerateResponse(
        index=delta.index,
        text=delta.text,
        token_ids=delta.token_ids if with_token_ids else (),
        logprobs=map(token_logprob, delta.logprobs or ()),
        finish_reason=FINISH_REASONS[delta.finish_reason],
    )
    match delta.stop_reason:
        case str(stop_string):
            message.stop_string = stop_string
        case int(token_id):
            message.stop_token_id = token_id
    return message


def token_logprob(entry: TokenLogprob) -> pb.TokenLogprob:
    return pb.TokenLogprob(
        token_id=entry.token_id,
        token=entry.token,
        token_bytes=entry.token_bytes,
        logprob=entry.logprob,
        top=map(token_logprob, entry.top),
    )


def usage(counts: Usage) -> pb.Usage:
    return pb.Usage(
        num_prompt_tokens=counts.num_prompt_tokens,
        num_generated_tokens=counts.num_generated_tokens,
        num_cached_tokens=counts.num_cached_tokens,
    )
