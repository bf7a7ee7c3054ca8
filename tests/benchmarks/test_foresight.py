"""Drafts that are mostly right, for measuring what speculation changes."""

from __future__ import annotations

from types import SimpleNamespace

from benchmarks.foresight import Foresight, Tally
from server.engine.policy.speculation import DraftRoom
from server.link.sampling import SamplingParams

TEXT = list(range(100, 130))


def sequence(num_known):
    return SimpleNamespace(
        request_id=1,
        drafter=None,
        token_ids=TEXT[:num_known],
        num_tokens=num_known,
        max_num_tokens=len(TEXT),
        params=SamplingParams(max_tokens=30),
        matcher=None,
    )


def test_drafts_are_the_text_but_for_every_fifth_place():
    foresight = Foresight([DraftRoom(1, 8)], 7, [[], TEXT])
    seq = sequence(8)
    assert foresight.may_follow([seq])
    assert seq.drafter.drafts(seq.token_ids, 7) == [108, 109, 111, 111, 112, 113, 114]


def test_none_come_after_the_end_of_the_text():
    foresight = Foresight([DraftRoom(1, 8)], 7, [[], TEXT])
    seq = sequence(28)
    foresight.may_follow([seq])
    assert seq.drafter.drafts(seq.token_ids, 7) == TEXT[28:]


def test_the_tally_says_how_many_turned():
    assert str(Tally(10_000, 8_000, 160, 2)).endswith("2 of 160 requests had another token")
