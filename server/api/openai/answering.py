"""What the bodies of both generation endpoints have in common: head, counts and log probabilities.

Knows OpenAI's bodies, but neither endpoint.
"""

from __future__ import annotations

import hashlib
import time
from typing import Any

import msgspec

from server.api.http.json_bodies.json_response import finite
from server.api.openai.bodies.response_bodies import (
    PromptLogprob,
    PromptLogprobs,
    PromptTokensDetails,
    UsageBody,
)
from server.api.requests.generation import TokenLogprob, Usage
from server.api.streams.generation import Generation


def head(prefix: str, generation: Generation) -> dict[str, Any]:
    """The fields of `AnswerHead`; the same for every chunk of a stream."""
    model, version = generation.model, generation.version
    return {
        "id": f"{prefix}-{generation.request.request_id}",
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": fingerprint(model, version),
        "model_version": version,
        "seed": generation.seed,
        "resume_exactness": generation.resume_exactness or msgspec.UNSET,
    }


def fingerprint(model: str, version: str) -> str:
    """A name that changes with the model and its version: the same seed may give other tokens."""
    return "fp_" + hashlib.blake2b(f"{model}@{version}".encode(), digest_size=6).hexdigest()


def usage_body(usage: Usage) -> UsageBody:
    return UsageBody(
        prompt_tokens=usage.num_prompt_tokens,
        completion_tokens=usage.num_generated_tokens,
        total_tokens=usage.num_prompt_tokens + usage.num_generated_tokens,
        prompt_tokens_details=PromptTokensDetails(usage.num_cached_tokens),
    )


def prompt_logprobs(generation: Generation) -> PromptLogprobs | msgspec.UnsetType:
    """The prompt's log probabilities; UNSET unless the request asks for `prompt_logprobs`."""
    if generation.prompt_logprobs is None:
        return msgspec.UNSET
    return [None if entry is None else _candidates(entry) for entry in generation.prompt_logprobs]


def _candidates(entry: TokenLogprob) -> dict[str, PromptLogprob]:
    candidates = (entry, *entry.top)
    return {str(c.token_id): PromptLogprob(finite(c.logprob), c.token) for c in candidates}
