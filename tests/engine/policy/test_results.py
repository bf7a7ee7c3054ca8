"""What a row's result does to its sequence, and what its client gets; steps are the scheduler's."""

from __future__ import annotations

import pytest

from server.engine.policy.adapter_slots import AdapterSlots
from server.engine.policy.queue.waiting_queue import WaitingQueue
from server.engine.policy.results import Results, finish_reason, record_prompt_logprobs, token_event
from server.engine.policy.running_set import RunningSet
from server.engine.policy.sequences.sequence import LoadedVersion, SequenceState
from server.engine.policy.sequences.step import RowResult, ScheduledRow
from server.link.frames import TokenLogprobs
from tests.engine.builders import is_all_free, make_blocks, make_sequence
from tests.engine.fakes import EOS

FIRST, NEXT = LoadedVersion("1"), LoadedVersion("2", 1)


class Bench:
    """One running sequence of three prompt tokens, all of them in a step that samples."""

    def __init__(self, block_size=4, **params):
        self.blocks = make_blocks(9, block_size)
        adapters = AdapterSlots()
        self.waiting, self.running = WaitingQueue(8), RunningSet(self.blocks, 2, adapters)
        self.results = Results(self.waiting, self.running, self.blocks, adapters)
        self.seq = make_sequence([1, 2, 3], version=FIRST, **params)
        assert self.running.start(self.seq, 4, 8)
        self.seq.num_computed_tokens = 3
        self.seq.num_in_flight_tokens = 1

    def take(self, token=5, version=FIRST, **fields):
        return self.results.take(row_of(self.seq), RowResult((token,), **fields), version)


def row_of(seq, start=0, num_tokens=3):
    return ScheduledRow(seq, start, num_tokens, is_sampling=True, is_admitted=False)


class TestTaking:
    def test_a_sequence_gets_its_token_and_the_client_an_event(self):
        bench = Bench()
        event = bench.take(5)
        assert (bench.seq.token_ids, bench.seq.num_in_flight_tokens) == ([1, 2, 3, 5], 0)
        assert (event.token_ids, event.finish_reason, event.version) == ([5], None, "1")

    def test_the_row_of_a_sequence_that_has_ended_is_void(self):
        bench = Bench()
        bench.results.finish(bench.seq, "abort")
        assert bench.take(5) is None
        assert bench.seq.token_ids == [1, 2, 3]

    def test_the_row_of_a_version_that_was_withdrawn_gives_no_token(self):
        bench = Bench()
        assert bench.take(5, version=NEXT) is None
        assert (bench.seq.token_ids, bench.seq.num_in_flight_tokens) == ([1, 2, 3], 0)

    def test_an_output_that_is_not_finite_fails_the_request(self):
        bench = Bench()
        event = bench.take(5, is_finite=False)
        assert (event.finish_reason, event.error) == ("error", "internal")
        assert bench.seq.token_ids == [1, 2, 3]
        assert is_all_free(bench.blocks)

    def test_the_last_token_comes_with_the_reason_and_frees_slot_and_blocks(self):
        bench = Bench()
        assert bench.take(EOS).finish_reason == "stop"
        assert (bench.seq.state, bench.seq.slot) == (SequenceState.FINISHED, -1)
        assert is_all_free(bench.blocks)


class TestEnding:
    def test_whoever_waits_ends_too(self):
        bench = Bench()
        late = make_sequence([4], request_id=2)
        bench.waiting.add([late])
        bench.results.finish(late, "abort")
        assert (late.state, list(bench.waiting)) == (SequenceState.FINISHED, [])

    def test_a_deadline_that_has_passed_ends_running_and_waiting(self):
        bench = Bench(deadline=2.0)
        late = make_sequence([4], request_id=2, deadline=1.5)
        patient = make_sequence([4], request_id=3, deadline=3.0)
        bench.waiting.add([late, patient])
        ended = bench.results.expire(2.0)
        assert [(seq, event.error) for seq, event in ended] == [
            (bench.seq, "deadline_exceeded"),
            (late, "deadline_exceeded"),
        ]
        assert list(bench.waiting) == [patient]


@pytest.mark.parametrize(
    ("generated", "fields", "reason"),
    [
        ([5], {}, None),
        ([EOS], {}, "stop"),
        ([EOS], {"ignore_eos": True}, None),
        ([7], {"stop_token_ids": (7,)}, "stop"),
        ([EOS], {"min_tokens": 1}, None),
        ([5, EOS], {"min_tokens": 1}, "stop"),
        ([5] * 8, {}, "length"),
        ([5] * 7 + [EOS], {}, "stop"),
    ],
)
def test_why_a_sequence_ends(generated, fields, reason):
    seq = make_sequence([1, 2, 3], **fields)
    seq.token_ids += generated
    assert finish_reason(row_of(seq, 2 + len(generated), 1), generated[-1]) == reason


def test_a_prompt_for_no_token_must_have_run_whole():
    seq = make_sequence([1, 2, 3], max_tokens=0)
    assert finish_reason(row_of(seq, 0, 2), None) is None
    assert finish_reason(row_of(seq, 2, 1), None) == "length"


def test_prompt_log_probabilities_that_are_known_come_once():
    seq = make_sequence([1, 2, 3, 4], num_prompt_logprobs=0)
    found = [TokenLogprobs(-float(token), []) for token in (2, 3, 4)]
    record_prompt_logprobs(row_of(seq, 0, 2), RowResult(prompt_logprobs=found[:2]))
    record_prompt_logprobs(row_of(seq, 0, 3), RowResult(prompt_logprobs=found))
    assert seq.prompt_logprobs == [None, *found]


def test_only_the_first_event_names_version_and_cached_tokens():
    seq = make_sequence([1, 2, 3], version=FIRST)
    seq.num_cached_tokens = 2
    events = []
    for token in (5, 6):
        seq.token_ids.append(token)
        events.append(token_event(row_of(seq), RowResult((token,)), 1))
    assert [(event.version, event.num_cached_tokens) for event in events] == [("1", 2), ("", 0)]


class TestDrafts:
    """A row of one known token and three drafts, after three prompt tokens and one generated."""

    def take(self, token_ids, **params):
        bench = Bench(**params)
        bench.take(4)
        seq = bench.seq
        assert bench.blocks.grow(seq, 4) == 4
        seq.num_computed_tokens += 1
        seq.num_in_flight_tokens = 1
        row = ScheduledRow(seq, 3, 4, True, False, draft_ids=(5, 6, 7))
        logprobs = tuple(TokenLogprobs(-float(token), []) for token in token_ids)
        event = bench.results.take(row, RowResult(tuple(token_ids), logprobs), FIRST)
        return bench, event

    @pytest.mark.parametrize("token_ids", [[9], [5, 9], [5, 6, 9], [5, 6, 7, 9]])
    def test_tokens_up_to_the_first_wrong_draft_are_taken(self, token_ids):
        bench, event = self.take(token_ids)
        assert bench.seq.token_ids == [1, 2, 3, 4, *token_ids]
        assert event.token_ids == token_ids
        assert [each.logprob for each in event.logprobs] == [-float(each) for each in token_ids]
        # The last token has no KV yet, nor has a wrong draft any that counts.
        assert bench.seq.num_computed_tokens == 3 + len(token_ids)
        assert bench.seq.is_decoding

    def test_an_end_among_them_drops_the_rest(self):
        bench, event = self.take([5, 6, 7, 9], stop_token_ids=(6,))
        assert event.token_ids == [5, 6]
        assert len(event.logprobs) == 2
        assert event.finish_reason == "stop"
        assert bench.seq.token_ids[-1] == 6

    def test_no_more_are_taken_than_were_asked_for(self):
        _, event = self.take([5, 6, 7, 9], max_tokens=4)
        assert (event.token_ids, event.finish_reason) == ([5, 6, 7], "length")

    @pytest.mark.parametrize(("token_ids", "num_found"), [([9], 4), ([5, 9], 5), ([5, 6, 9], 6)])
    def test_only_what_was_taken_and_computed_can_be_found(self, token_ids, num_found):
        """The place of the last token holds the KV of a wrong draft."""
        bench, _ = self.take(token_ids, block_size=1)
        other = make_sequence([*bench.seq.token_ids, 1, 1], version=FIRST)
        assert bench.blocks.num_cached_tokens(other) == num_found
