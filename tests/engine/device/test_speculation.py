"""With drafts and without, a request gives the same tokens: the real engine on real models.

Drafts are the tokens of the run without drafts, wrong at some places, so that steps take all,
some and none of them. In float32 the programs of both runs round alike enough; a test of every
family, and of bfloat16, is `make exactness`.
"""

from __future__ import annotations

from itertools import product

import pytest

from server.engine.policy.speculation import Speculation
from server.link.sampling import SamplingParams
from tests.engine.device.test_identity import (
    FILTERS,
    PENALTIES,
    Request,
    Session,
    build,
    make_request,
)
from tests.golden import random_models

LIMITS = {"max_num_seqs": 2, "max_num_batched_tokens": 32, "speculation": "prompt_lookup"}
REQUESTS = [
    make_request(0, 40, temperature=0.0, num_logprobs=2),
    make_request(100, 33, temperature=1.0, seed=7, n=2),
    make_request(500, 20, seed=11, **FILTERS),
    make_request(300, 70, temperature=0.0, **PENALTIES),
    make_request(700, 50, seed=13, logit_bias={5: 3.0, 40: -5.0}, min_tokens=10, **FILTERS),
]


class Told:
    """Drafts what is known to come, with a wrong token at every seventh place."""

    gain = 1.0

    def __init__(self, tokens):
        self._tokens = tokens

    def drafts(self, token_ids, most):
        end = len(token_ids) + most
        return [
            token if place % 7 else token + 1
            for place, token in enumerate(self._tokens[:end])
            if place >= len(token_ids)
        ]

    def note(self, num_accepted):
        pass


class TellingSpeculation(Speculation):
    """Always worth it: the steps that it has measured say so."""

    def __init__(self, runner, config, requests, expected):
        super().__init__(runner.draft_rooms, config.most_drafts)
        self._expected = {
            (i, choice): [*requests[i].prompt, *tokens] for (i, choice), tokens in expected.items()
        }
        for num_rows, has_drafts in product((1, 2), (False, True)):
            self.note_step(num_rows, 0.0 if has_drafts else 1e6, has_drafts=has_drafts)

    def _drafts(self, seq, room):
        if seq.drafter is None:
            seq.drafter = Told(self._expected[seq.request_id, seq.index])
        return super()._drafts(seq, room)


def run_both(base, requests, **options):
    """The tokens without drafts and with them, and how many drafts each row had and came true."""
    without = Session(*base, **options)
    expected = without.run(requests)
    logprobs = [logprobs_of(without)]
    speculation = TellingSpeculation(*base, requests, expected)
    session = Session(*base, speculation=speculation, **options)
    found = session.run(requests)
    logprobs.append(logprobs_of(session))
    drafts = [pair for step in session.observer.steps for pair in step.drafts]
    return expected, found, drafts, logprobs


def logprobs_of(session):
    events = (event for frame in session.frames for event in frame.events)
    return [
        (entry.logprob, dict(entry.top))
        for event in events
        if event.request_id == 0
        for entry in event.logprobs or ()
    ]


@pytest.fixture(scope="module")
def base():
    return build(**LIMITS)


@pytest.mark.parametrize("overlap", [True, False])
def test_tokens_are_those_of_no_drafts(base, overlap):
    expected, found, drafts, _ = run_both(base, REQUESTS, overlap=overlap)
    assert found == expected
    assert {accepted == drafted for drafted, accepted in drafts} == {True, False}
    assert sum(accepted for _, accepted in drafts) > 40


def test_log_probabilities_come_with_every_token(base):
    _, _, drafts, (expected, found) = run_both(base, REQUESTS[:1])
    assert any(accepted for _, accepted in drafts)
    assert [logprob for logprob, _ in found] == pytest.approx([x for x, _ in expected], abs=1e-4)
    assert [set(top) for _, top in found] == [set(top) for _, top in expected]


def test_tokens_are_the_same_with_few_blocks_and_from_the_prefix_cache(base):
    """Rows are preempted, and drafts find no blocks."""
    expected, found, drafts, _ = run_both(base, REQUESTS, num_blocks=9)
    assert found == expected
    assert drafts


def test_what_nobody_can_draft_for_is_not_drafted_for(base):
    _, _, drafts, _ = run_both(base, [REQUESTS[3]])
    assert drafts == []


@pytest.mark.parametrize("family", ["gemma3", "gemma4", "qwen3-moe"])
def test_tokens_of_other_families_are_those_of_no_drafts(tmp_path, family):
    """Layers with a window, with heads of other sizes too, and experts."""
    base = build(random_models.write(family, tmp_path / family), **LIMITS)
    params = [SamplingParams(max_tokens=24, temperature=t, ignore_eos=True) for t in (0.0, 1.0)]
    prompts = [prompt for prompt in random_models.prompts(family) if len(prompt) > 20][:2]
    requests = [Request(*each) for each in zip(prompts, params, strict=True)]
    expected, found, drafts, _ = run_both(base, requests)
    assert found == expected
    assert sum(accepted for _, accepted in drafts) > 10
