"""What counts as the same continuation, by events a test makes up."""

from __future__ import annotations

import pytest

from models.checkpoint.manifest import Golden, GoldenPrompt
from server.link.frames import Abort, Step, Submit, TokenEvent, TokenLogprobs
from server.versions.golden import GoldenClient, GoldenError

GOLDEN = Golden(0.1, (GoldenPrompt((1, 2), (5, 6, 7)), GoldenPrompt((3,), (8,))))


class FakeEngineSide:
    """Answers each request with the next of `answers`: [(token, log probability, alternatives)]."""

    def __init__(self, *answers, **event):
        self.answers, self.event = list(answers), event
        self.frames = []
        self.client = GoldenClient(self.send)

    def send(self, frame):
        self.frames.append(frame)
        if not isinstance(frame, Submit) or not self.answers:
            return
        answer = self.answers.pop(0)
        for position, (token, logprob, top) in enumerate(answer):
            is_last = position == len(answer) - 1
            event = TokenEvent(
                request_id=frame.request_id,
                token_ids=[token],
                logprobs=[TokenLogprobs(logprob, top)],
                finish_reason="length" if is_last else None,
            )
            self.client.receive(Step(events=[event]))

    def difference(self, timeout=1.0):
        with pytest.raises(GoldenError) as error:
            self.client.check("2", GOLDEN, timeout)
        return str(error.value)


def sure(*tokens):
    return [(token, -0.1, [(token, -0.1)]) for token in tokens]


def test_the_published_tokens_pass_and_are_asked_for_greedily():
    side = FakeEngineSide(sure(5, 6, 7), sure(8))
    side.client.check("2", GOLDEN, 1.0)
    first = side.frames[0]
    assert first.prompt_token_ids == [1, 2]
    assert first.version == "2"
    assert (first.params.temperature, first.params.max_tokens) == (0.0, 3)


def test_another_token_is_told_with_how_much_less_likely_the_published_one_is():
    side = FakeEngineSide([*sure(5), (9, -0.2, [(9, -0.2), (6, -1.7)]), *sure(7)], sure(8))
    assert side.difference() == (
        "golden prompt 1 of 2: token 2 is 9, not 6, which is 1.5 less likely (natural logarithm; "
        "published tolerance 0.1)"
    )


def test_a_token_as_likely_as_the_published_one_passes_and_ends_the_comparison():
    close = [*sure(5), (9, -0.70, [(9, -0.70), (6, -0.75)]), *sure(1)]
    FakeEngineSide(close, sure(8)).client.check("2", GOLDEN, 1.0)


def test_a_token_that_is_not_among_the_likeliest_is_infinitely_less_likely():
    assert "inf less likely" in FakeEngineSide([*sure(5, 6), *sure(9)], sure(8)).difference()


def test_an_error_ends_the_check_and_what_is_left_of_it():
    side = FakeEngineSide()
    side.client.receive(
        Step(
            events=[
                TokenEvent(request_id=1, finish_reason="error", error="internal", message="NaN")
            ]
        )
    )
    assert side.difference() == "a golden prompt ended with internal: NaN"
    assert [frame.request_id for frame in side.frames if isinstance(frame, Abort)] == [1, 2]


def test_an_engine_that_does_not_answer_is_not_waited_for():
    assert FakeEngineSide().difference(timeout=0.02) == "golden prompts took more than 0.02 s"
