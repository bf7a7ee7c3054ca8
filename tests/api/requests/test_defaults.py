"""What an option is that a request leaves out, and what the device takes for one that it gives."""

from __future__ import annotations

import pytest

from server.api.requests.defaults import of_model, sampling_params, with_defaults
from server.errors import ApiError
from tests.api.requests.test_validation import INFO, request


def params(num_prompt_tokens: int = 10, seed: int = 0, **options: object):
    return sampling_params(request(**options), num_prompt_tokens, seed, INFO)


def test_a_prompt_that_leaves_room_for_one_token_gets_one():
    assert params(99).max_tokens == 1


def test_defaults_fill_what_a_request_leaves_out():
    filled = params()
    assert filled.max_tokens == 90
    assert (filled.temperature, filled.top_p, filled.top_k, filled.min_p) == (1.0, 1.0, 0, 0.0)
    assert (filled.presence_penalty, filled.frequency_penalty) == (0.0, 0.0)
    assert (filled.repetition_penalty, filled.min_tokens) == (1.0, 0)
    assert (filled.num_logprobs, filled.num_prompt_logprobs) == (-1, -1)


MODEL = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.1, "repetition_penalty": 1.05}


def test_the_models_own_options_fill_what_a_request_leaves_out():
    asked = with_defaults(request(top_k=0, temperature=0.0), of_model(MODEL)).sampling
    assert (asked.temperature, asked.top_k) == (0.0, 0)
    assert (asked.top_p, asked.min_p, asked.repetition_penalty) == (0.95, 0.1, 1.05)
    assert asked.presence_penalty is None
    whole = with_defaults(request(), of_model(MODEL)).sampling
    assert {name: getattr(whole, name) for name in MODEL} == MODEL


def test_a_model_that_says_nothing_changes_nothing():
    assert with_defaults(request(temperature=0.5), of_model({})) == request(temperature=0.5)


@pytest.mark.parametrize("found", [{"top_p": 1.5}, {"temperature": -1.0}, {"min_p": float("nan")}])
def test_a_models_option_out_of_its_range_is_refused_by_name(found):
    with pytest.raises(ValueError, match=f"^{next(iter(found))} must be at least 0"):
        of_model(found)


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
