"""Which requests could never run, and what the refusal says of them."""

from __future__ import annotations

import pytest

from server.engine.policy.admission import AdmissionError, check_admission
from tests.engine.builders import make_blocks, make_sequence

# 3 blocks of 4 tokens, next to the one that is padding.
BLOCKS = make_blocks(4, 4)


def check(prompt, *, limit=64, now=0.0, **fields):
    check_admission(make_sequence(prompt, **fields), BLOCKS, limit, now)


@pytest.mark.parametrize(
    ("prompt", "fields"),
    [
        ([1] * 11, {}),
        ([1] * 12, {"max_tokens": 0}),
        ([1] * 7, {"limit": 8}),
        ([1], {"deadline": 5.0, "now": 4.9}),
    ],
)
def test_what_just_fits_is_let_in(prompt, fields):
    check(prompt, **fields)


@pytest.mark.parametrize(
    ("prompt", "fields", "kind", "message"),
    [
        ([], {}, "invalid_request", "the prompt is empty"),
        ([1] * 12, {}, "invalid_request", "12 tokens needs 4 KV blocks of 4 tokens, but there are"),
        ([1] * 8, {"limit": 8}, "invalid_request", "no room for another in the limit of 8"),
        ([1], {"deadline": 5.0, "now": 5.0}, "deadline_exceeded", "the deadline passed"),
    ],
)
def test_what_could_never_run_is_refused_with_the_reason(prompt, fields, kind, message):
    with pytest.raises(AdmissionError, match=message) as refusal:
        check(prompt, **fields)
    assert refusal.value.kind == kind


def test_tokens_of_another_replica_count_like_the_prompt():
    with pytest.raises(AdmissionError, match="a prompt of 12 tokens needs 4 KV blocks"):
        check([1] * 6, received=[2] * 6)
