"""What an option that a request leaves out is, and what the device takes for one that it gives.

Knows no transport. The request has been checked before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from server.api.requests.generation import GenerateRequest, Sampling
from server.api.requests.validation import RANGES, invalid
from server.link.frames import EngineInfo
from server.link.sampling import OPTIONS, Option, SamplingParams

# Below this, the second-best token's share is nothing for any gap float32 logits can show.
GREEDY_BELOW_TEMPERATURE = 1e-3
# Smaller ones would round to zero on the device; this one already keeps only the best token.
SMALLEST_TOP_P = 1e-6


def of_model(found: Mapping[str, float]) -> Sampling:
    """What the model's own file says of sampling. ValueError for a number out of its range."""
    for name, value in found.items():
        if not RANGES[name].holds(value):
            raise ValueError(f"{name} must be {RANGES[name]}, not {value}")
    given: dict[str, Any] = dict(found)
    return Sampling(**given)


def with_defaults(request: GenerateRequest, defaults: Sampling) -> GenerateRequest:
    """The request with the model's own options where it says nothing."""
    sampling = request.sampling
    missing = {
        option.asked_as: value
        for option in OPTIONS
        if getattr(sampling, option.asked_as) is None
        and (value := getattr(defaults, option.asked_as)) is not None
    }
    return replace(request, sampling=replace(sampling, **missing)) if missing else request


def sampling_params(
    request: GenerateRequest, num_prompt_tokens: int, seed: int, info: EngineInfo
) -> SamplingParams:
    """Fill in every default of a checked request. Signed seeds wrap to 64 unsigned bits."""
    sampling = request.sampling
    filled = {option.name: _filled(option, sampling) for option in OPTIONS}
    # The engine always draws a token. `Choice` drops the token of a request for none.
    filled["max_tokens"] = max(1, _max_tokens(request, num_prompt_tokens, info))
    filled["seed"] = seed % 2**64
    if request.resume is not None:
        # The broken stream has reported them already.
        filled["num_prompt_logprobs"] = -1
    return SamplingParams(
        **filled,
        logit_bias=dict(sampling.logit_bias),
        stop_token_ids=tuple(sampling.stop_token_ids),
        ignore_eos=sampling.ignore_eos,
        grammar=sampling.grammar,
    )


def _filled(option: Option, sampling: Sampling) -> Any:
    value = getattr(sampling, option.asked_as)
    if value is None:
        return option.default
    return _ON_THE_DEVICE.get(option.name, _as_it_is)(value)


def _as_it_is(value: float) -> float:
    return value


# Where the device wants another number than the client gave.
_ON_THE_DEVICE: Mapping[str, Callable[[Any], float]] = {
    "temperature": lambda value: value if value >= GREEDY_BELOW_TEMPERATURE else 0.0,
    "top_p": lambda value: max(value, SMALLEST_TOP_P),
    "top_k": lambda value: max(0, value),
}


def _max_tokens(request: GenerateRequest, num_prompt_tokens: int, info: EngineInfo) -> int:
    room = info.max_model_len - num_prompt_tokens
    wanted = request.sampling.max_tokens
    if wanted is None:
        default = request.default_max_tokens
        wanted = room if default is None else min(default, room)
    if wanted > room:
        raise invalid(
            f"This model's maximum context length is {info.max_model_len} tokens. However, the"
            f" prompt has {num_prompt_tokens} tokens and max_tokens is {wanted}; at most {room} can"
            " be generated.",
            "max_tokens",
            "context_length_exceeded",
        )
    if (request.sampling.min_tokens or 0) > wanted:
        raise invalid(f"min_tokens must not exceed max_tokens, here {wanted}", "min_tokens")
    return wanted
