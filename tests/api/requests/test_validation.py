"""Every bound, and the sentence a client gets on the far side of it."""

from __future__ import annotations

import math

import pytest

from server.api.requests.generation import GenerateRequest, Sampling
from server.api.requests.validation import (
    MAX_STOP_CHARS,
    MAX_STOP_STRINGS,
    RANGES,
    check_options,
    check_prompt,
    sampling_params,
)
from server.errors import ApiError, ErrorKind
from server.link.frames import EngineInfo
from server.link.sampling import MAX_LOGIT_BIASES, MAX_STOP_TOKEN_IDS

INFO = EngineInfo(
    model="m", version="1", max_model_len=100, vocab_size=50, eos_token_ids=(0,), max_num_seqs=8
)
NAN, INF = math.nan, math.inf

REFUSED = [
    ({"temperature": -0.1}, "temperature must be at least 0 and at most 2"),
    ({"temperature": 2.1}, "temperature must be"),
    ({"temperature": NAN}, "temperature must be"),
    ({"temperature": INF}, "temperature must be"),
    ({"top_p": -0.1}, "top_p must be at least 0 and at most 1"),
    ({"top_p": 1.1}, "top_p must be"),
    ({"top_p": NAN}, "top_p must be"),
    ({"top_k": -2}, "top_k must be at least -1"),
    ({"top_k": 2**31}, "top_k must be"),
    ({"min_p": -0.1}, "min_p must be at least 0 and at most 1"),
    ({"min_p": 1.5}, "min_p must be"),
    ({"presence_penalty": 2.5}, "presence_penalty must be at least -2 and at most 2"),
    ({"frequency_penalty": -2.5}, "frequency_penalty must be"),
    ({"repetition_penalty": 0.0}, "repetition_penalty must be at least 0.01 and at most 100"),
    ({"repetition_penalty": INF}, "repetition_penalty must be"),
    ({"max_tokens": -1}, "max_tokens must be at least 0"),
    ({"min_tokens": -1}, "min_tokens must be at least 0"),
    ({"min_tokens": 5, "max_tokens": 4}, "min_tokens must not exceed max_tokens"),
    ({"logprobs": 21}, "logprobs must be at least 0 and at most 20"),
    ({"logprobs": -1}, "logprobs must be"),
    ({"prompt_logprobs": 21}, "prompt_logprobs must be"),
    ({"seed": 2**64}, "seed must be at least -9223372036854775808"),
    ({"seed": -(2**63) - 1}, "seed must be"),
    ({"stop": ("x",) * (MAX_STOP_STRINGS + 1)}, "stop must hold at most 16 entries"),
    ({"stop": ("x" * (MAX_STOP_CHARS + 1),)}, "a stop string must have at most 1024 characters"),
    ({"stop_token_ids": (50,)}, "stop_token_ids holds 50, outside the vocabulary of 50 tokens"),
    ({"stop_token_ids": (-1,)}, "stop_token_ids holds -1"),
    ({"stop_token_ids": (1,) * (MAX_STOP_TOKEN_IDS + 1)}, "stop_token_ids must hold at most 64"),
    ({"logit_bias": {50: 1.0}}, "logit_bias holds 50, outside the vocabulary"),
    ({"logit_bias": {1: 101.0}}, "a bias in logit_bias must be at least -100 and at most 100"),
    ({"logit_bias": {1: NAN}}, "a bias in logit_bias must be"),
    (
        {"logit_bias": dict.fromkeys(range(MAX_LOGIT_BIASES + 1), 0.0)},
        "logit_bias must hold at most 300",
    ),
]

ACCEPTED = [
    {},
    {"temperature": 0.0},
    {"temperature": 2},
    {"top_p": 1.0},
    {"top_p": 1e-6},
    {"top_k": -1},
    {"top_k": 0},
    {"min_p": 1.0},
    {"presence_penalty": -2.0, "frequency_penalty": 2.0},
    {"repetition_penalty": 0.5},
    {"min_tokens": 4, "max_tokens": 4},
    {"logprobs": 0, "prompt_logprobs": 20},
    {"seed": -(2**63)},
    {"seed": 2**64 - 1},
    {"stop": ("x",) * MAX_STOP_STRINGS},
    {"stop_token_ids": (0, 49)},
    {"logit_bias": {0: -100.0, 49: 100.0}},
]


def request(
    n: int = 1, default_max_tokens: int | None = None, **options: object
) -> GenerateRequest:
    return GenerateRequest(
        prompt="", sampling=Sampling(**options), n=n, default_max_tokens=default_max_tokens
    )


def params(num_prompt_tokens: int = 10, seed: int = 0, **options: object):
    return sampling_params(request(**options), num_prompt_tokens, seed, INFO)


@pytest.mark.parametrize(("options", "sentence"), REFUSED)
def test_out_of_bounds(options, sentence):
    with pytest.raises(ApiError) as caught:
        check_options(request(**options), INFO)
    assert caught.value.kind is ErrorKind.INVALID_REQUEST
    assert caught.value.message.startswith(sentence)
    assert caught.value.param in options


@pytest.mark.parametrize("options", ACCEPTED)
def test_options_within_bounds_are_accepted(options):
    check_options(request(**options), INFO)


@pytest.mark.parametrize(
    ("n", "sentence"),
    [(0, "n must be at least 1"), (129, "n must be"), (9, "n must be at most 8 on this server")],
)
def test_number_of_choices(n, sentence):
    with pytest.raises(ApiError, match=sentence) as caught:
        check_options(request(n=n), INFO)
    assert caught.value.param == "n"


def test_every_range_names_a_field_that_exists():
    assert set(RANGES) - {"n"} <= set(Sampling.__dataclass_fields__)


def test_a_range_as_json_schema():
    assert RANGES["temperature"].schema() == {"minimum": 0, "maximum": 2}
    assert RANGES["repetition_penalty"].schema() == {"minimum": 0.01, "maximum": 100}


@pytest.mark.parametrize(
    ("prompt", "sentence", "code"),
    [
        ((), "prompt must not be empty", None),
        ((1, 50), "prompt holds 50, outside the vocabulary of 50 tokens", None),
        ((-1,), "prompt holds -1", None),
        (
            (1,) * 100,
            "This model's maximum context length is 100 tokens. However, the",
            "context_length_exceeded",
        ),
    ],
)
def test_prompts_that_cannot_run(prompt, sentence, code):
    with pytest.raises(ApiError) as caught:
        check_prompt(prompt, INFO)
    assert caught.value.message.startswith(sentence)
    assert (caught.value.param, caught.value.code) == ("prompt", code)


def test_a_prompt_that_leaves_room_for_one_token():
    check_prompt((1,) * 99, INFO)
    assert params(99).max_tokens == 1


def test_defaults_fill_what_a_request_leaves_out():
    filled = params()
    assert filled.max_tokens == 90
    assert (filled.temperature, filled.top_p, filled.top_k, filled.min_p) == (1.0, 1.0, 0, 0.0)
    assert (filled.presence_penalty, filled.frequency_penalty) == (0.0, 0.0)
    assert (filled.repetition_penalty, filled.min_tokens) == (1.0, 0)
    assert (filled.num_logprobs, filled.num_prompt_logprobs) == (-1, -1)


def test_an_explicit_max_tokens_that_does_not_fit_is_refused():
    with pytest.raises(ApiError, match="at most 90 can be generated") as caught:
        params(max_tokens=91)
    assert (caught.value.param, caught.value.code) == ("max_tokens", "context_length_exceeded")


def test_a_default_max_tokens_is_cut_to_what_fits():
    assert params(default_max_tokens=16).max_tokens == 16
    assert params(95, default_max_tokens=16).max_tokens == 5


def test_min_tokens_counts_against_the_default_too():
    with pytest.raises(ApiError, match="min_tokens must not exceed max_tokens, here 16"):
        params(default_max_tokens=16, min_tokens=17)


@pytest.mark.parametrize(("given", "meant"), [(0.0, 0.0), (1e-9, 0.0), (0.001, 0.001), (2.0, 2.0)])
def test_a_temperature_next_to_zero_is_greedy(given, meant):
    assert params(temperature=given).temperature == meant


def test_a_top_p_too_small_for_the_device_is_its_smallest():
    assert params(top_p=5e-324).top_p == 1e-6


@pytest.mark.parametrize("top_k", [-1, 0])
def test_both_ways_to_switch_top_k_off(top_k):
    assert params(top_k=top_k).top_k == 0


@pytest.mark.parametrize(
    ("seed", "unsigned"), [(5, 5), (-1, 2**64 - 1), (-(2**63), 2**63), (2**64 - 1, 2**64 - 1)]
)
def test_seeds_wrap_to_64_unsigned_bits(seed, unsigned):
    assert params(seed=seed).seed == unsigned
