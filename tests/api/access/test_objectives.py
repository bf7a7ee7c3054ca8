from __future__ import annotations

import pytest

from server.api.access.objectives import Objectives, check_timeout, read_objectives
from server.errors import ApiError, ErrorKind

NAMED = {"interactive": 10, "batch": -1}


def read(*, is_trusted=True, **headers):
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return read_objectives(names, NAMED, is_trusted=is_trusted)


def test_without_headers_nothing_is_asked():
    assert read() == Objectives()


@pytest.mark.parametrize("header", ["x_llm_d_inference_objective", "x_gateway_inference_objective"])
def test_an_objective_has_the_priority_of_its_name(header):
    assert read(**{header: "batch"}).priority == -1


def test_the_new_spelling_counts_before_the_old():
    asked = {"x_llm_d_inference_objective": "batch", "x_gateway_inference_objective": "interactive"}
    assert read(**asked).priority == -1


def test_the_priority_header_counts_where_no_objective_is_known():
    assert read(x_llm_d_request_priority="7").priority == 7
    given = {"x_llm_d_inference_objective": "unknown", "x_llm_d_request_priority": "7"}
    assert read(**given).priority == 7
    assert read(x_llm_d_request_priority="urgent").priority == 0


def test_a_priority_counts_only_where_headers_are_trusted():
    assert read(is_trusted=False, x_llm_d_inference_objective="interactive").priority == 0
    assert read(is_trusted=False, x_llm_d_request_priority="7").priority == 0


def test_a_deadline_counts_from_everybody_and_the_earliest_holds():
    both = {"x_request_timeout_ms": "1500", "x_envoy_expected_rq_timeout_ms": "900"}
    assert read(is_trusted=False, **both).timeout_seconds == 0.9
    assert read(x_envoy_expected_rq_timeout_ms="0").timeout_seconds is None
    assert read(x_request_timeout_ms="9" * 10).timeout_seconds is None


@pytest.mark.parametrize("prefix", ["x_llm_d_slo_", "x_slo_"])
def test_latency_objectives_are_read_in_both_spellings(prefix):
    found = read(**{f"{prefix}ttft_ms": "250", f"{prefix}tpot_ms": "40"})
    assert (found.ttft_seconds, found.tpot_seconds) == (0.25, 0.04)


@pytest.mark.parametrize("value", ["1", " 20 ", "999999999"])
def test_a_time_limit_is_a_whole_number_of_milliseconds(value):
    check_timeout({"x-request-timeout-ms": value})
    assert read(x_request_timeout_ms=value).timeout_seconds == int(value) / 1000


@pytest.mark.parametrize("value", ["", "abc", "0", "-1", "1e3", "1.5", "1000000000", "١", "5, 6"])
def test_a_time_limit_that_is_none_is_refused(value):
    """The caller believes that it holds."""
    with pytest.raises(ApiError) as refusal:
        check_timeout({"x-request-timeout-ms": value})
    assert refusal.value.kind is ErrorKind.INVALID_REQUEST
    assert refusal.value.message == (
        "x-request-timeout-ms must be a whole number of milliseconds from 1 to 999999999"
    )
