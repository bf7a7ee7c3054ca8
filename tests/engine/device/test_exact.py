"""With `exact`, bfloat16 weights give every request the tokens that it has by itself.

Log probabilities are compared too, bit for bit, because most rounding turns no token. The same
comparison without the setting finds other bits, so it would show it if the setting did nothing.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.engine.device.test_identity import FILTERS, PENALTIES, Session, build, make_request

OPTIONS = (
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.0, **PENALTIES},
    {**FILTERS, **PENALTIES},
)
# Prompts of less than a chunk, of one, and of several.
LENGTHS = (7, 64, 90, 130, 33, 150, 65, 21)
REQUESTS = [
    make_request(90 * i, length, max_tokens=48, seed=i, num_logprobs=0, **OPTIONS[i % 4])
    for i, length in enumerate(LENGTHS)
]


def draws(session, requests):
    """Every request's tokens, each with its log probability."""
    session.run(requests)
    found = [[] for _ in requests]
    for event in (event for frame in session.frames for event in frame.events):
        logprobs = [each.logprob for each in event.logprobs or ()]
        found[event.request_id] += zip(event.token_ids, logprobs, strict=True)
    return found


class Mode:
    """A server's engine, and what it gives every request by itself."""

    def __init__(self, **settings):
        self.base = build(dtype="bfloat16", **settings)
        self.alone = [self.run([request])[0] for request in REQUESTS]

    def run(self, requests, **options):
        return draws(Session(*self.base, **options), requests)

    def rests(self, cuts):
        """What every request gets that is resumed after as many tokens, and what it should."""
        resumed = [
            replace(request, received=[[token for token, _ in alone[:cut]]])
            for request, alone, cut in zip(REQUESTS, self.alone, cuts, strict=True)
        ]
        expected = [alone[cut:] for alone, cut in zip(self.alone, cuts, strict=True)]
        return self.run(resumed), expected


@pytest.fixture(scope="module")
def exact():
    return Mode(exact=True)


def test_tokens_together_are_those_alone(exact):
    assert exact.run(REQUESTS) == exact.alone
    assert {len(tokens) for tokens in exact.alone} == {48}


def test_tokens_in_another_order_are_those_alone(exact):
    """Other rows, other slots, other neighbours."""
    assert exact.run(REQUESTS[::-1]) == exact.alone[::-1]


@pytest.mark.parametrize("cuts", [range(1, 48, 6), range(47, 0, -6)])
def test_a_resumed_stream_goes_on_with_the_tokens_that_would_have_come(exact, cuts):
    found, expected = exact.rests(cuts)
    assert found == expected


def test_a_preempted_sequence_goes_on_with_the_tokens_that_would_have_come(exact):
    session = Session(*exact.base, num_blocks=30)
    assert draws(session, REQUESTS) == exact.alone
    assert session.observer.num_preempted > 0


def test_a_cached_prompt_gives_the_tokens_of_a_computed_one(exact):
    session = Session(*exact.base)
    draws(session, REQUESTS)
    assert draws(session, REQUESTS) == exact.alone
    assert session.num_cached_tokens == sum((len(r.prompt) - 1) // 64 * 64 for r in REQUESTS)


def test_without_overlap_the_tokens_are_the_same(exact):
    assert exact.run(REQUESTS, overlap=False) == exact.alone


def test_without_the_setting_rounding_shows():
    usual = Mode()
    found, expected = usual.rests(range(1, 48, 6))
    assert usual.run(REQUESTS) != usual.alone
    assert found != expected
