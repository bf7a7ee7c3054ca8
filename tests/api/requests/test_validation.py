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
