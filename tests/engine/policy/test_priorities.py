"""Priorities from the queue to the device: bands, shedding, making way, and refusals in time."""

from __future__ import annotations

import pytest

from server.engine.policy.admission import AdmissionError
from server.engine.policy.queue.waiting_queue import WaitingQueue
from server.engine.policy.sequences.sequence import LoadedVersion, SequenceState
from server.engine.policy.sequences.step import RowResult
from tests.engine.builders import make_scheduler, make_sequence

VERSION = LoadedVersion()


def request(number, *, priority=0, source="", prompt=(1,), **fields):
    return make_sequence(
        list(prompt), request_id=number, priority=priority, source=source, **fields
    )


def step(scheduler, now=0.0):
    """One step, read at once; the requests that ran in it."""
    batch = scheduler.schedule(VERSION, now)
    for row in batch.rows:
        result = RowResult((2,) if row.is_sampling else ())
        scheduler.results.take(row, result, VERSION)
    return {row.seq.request_id for row in batch.rows}


def steps_until(scheduler, condition, limit=20):
    for _ in range(limit):
        if condition(step(scheduler)):
            return
    raise AssertionError(f"not within {limit} steps")


class TestBands:
    def queue(self, *seqs):
        queue = WaitingQueue(9)
        for seq in seqs:
            queue.add([seq])
        return queue

    def test_a_higher_priority_goes_first_whenever_it_came(self):
        low, middle, high = request(0, priority=-1), request(1), request(2, priority=5)
        assert list(self.queue(low, middle, high).in_turn()) == [high, middle, low]

    def test_sources_take_turns_within_a_priority(self):
        one, two, other = (request(i, priority=3, source=s) for i, s in enumerate("aab"))
        below = request(3, source="c")
        assert list(self.queue(below, one, two, other).in_turn()) == [one, other, two, below]

    def test_a_preempted_request_comes_first_of_its_priority_only(self):
        high, low, preempted = request(0), request(1, priority=-1), request(2, priority=-1)
        queue = self.queue(high, low)
        queue.add([preempted], first=True)
        assert list(queue.in_turn()) == [high, preempted, low]

    def test_the_requests_ahead_of_another_are_counted_by_turns(self):
        queue = self.queue(
            request(0, priority=1), *(request(i, source="a") for i in (1, 2, 3)), request(4)
        )
        assert queue.num_ahead(request(5, source="new")) == 3
        assert queue.num_ahead(request(5, source="a")) == 5
        assert queue.num_ahead(request(5, source="new", priority=2)) == 0
        assert queue.num_ahead(request(5, source="new", priority=-1)) == 5

    def test_the_requests_of_a_source_that_are_due_later_are_not_ahead(self):
        queue = self.queue(*(request(i, source="a", ttft_seconds=4.0 * i) for i in (1, 2, 3)))
        assert queue.num_ahead(request(5, source="a", ttft_seconds=9.0)) == 2
        assert queue.num_ahead(request(5, source="b", ttft_seconds=9.0)) == 1


class TestHopes:
    def order(self, *seqs):
        queue = WaitingQueue(9)
        for seq in seqs:
            queue.add([seq])
        return [seq.request_id for seq in queue.in_turn()]

    def test_within_a_source_the_first_token_that_is_due_first_comes_first(self):
        hopes = enumerate((9.0, 0.5, 3.0))
        assert self.order(*(request(i, ttft_seconds=hope) for i, hope in hopes)) == [1, 2, 0]

    def test_what_names_no_time_is_due_five_seconds_after_it_came(self):
        early, late = request(0, arrival=0.0), request(1, arrival=3.0)
        patient, eager = (request(n, arrival=3.5, ttft_seconds=t) for n, t in ((2, 9.0), (3, 2.0)))
        assert self.order(early, late, patient, eager) == [0, 3, 1, 2]

    def test_a_deadline_is_a_time_too(self):
        urgent, patient = (request(n, deadline=t) for n, t in ((1, 1.0), (2, 9.0)))
        assert self.order(request(0), urgent, patient) == [1, 0, 2]

    def test_no_hope_gets_before_another_source(self):
        one, eager = request(0, source="a"), request(1, source="b", ttft_seconds=0.1)
        assert self.order(one, eager, request(2, source="a", ttft_seconds=0.1)) == [2, 1, 0]

    def test_further_choices_go_with_the_first(self):
        queue = WaitingQueue(9)
        queue.add([request(0, ttft_seconds=9.0)])
        queue.add([request(1, index=i, ttft_seconds=1.0) for i in range(2)])
        assert [(s.request_id, s.index) for s in queue.in_turn()] == [(1, 0), (0, 0), (1, 1)]


class TestShedding:
    def test_a_full_queue_gives_up_the_last_request_below_zero(self):
        scheduler = make_scheduler(max_queue_len=2)
        for number, priority in ((0, -1), (1, -2)):
            scheduler.add([request(number, priority=priority)], 0.0)
        [(seq, event)] = scheduler.add([request(2)], 0.0)
        assert (seq.request_id, seq.state) == (1, SequenceState.FINISHED)
        assert (event.error, event.finish_reason) == ("overloaded", "error")

    @pytest.mark.parametrize(("waiting", "new"), [(0, 5), (-1, -1), (-1, -2)])
    def test_nobody_is_shed_for_an_equal_or_from_zero_on(self, waiting, new):
        scheduler = make_scheduler(max_queue_len=1)
        scheduler.add([request(0, priority=waiting)], 0.0)
        with pytest.raises(AdmissionError) as caught:
            scheduler.add([request(1, priority=new)], 0.0)
        assert caught.value.kind == "queue_full"

    def test_a_request_that_is_refused_itself_sheds_nobody(self):
        scheduler = make_scheduler(max_queue_len=1)
        scheduler.add([request(0, priority=-1)], 0.0)
        with pytest.raises(AdmissionError):
            scheduler.add([request(1, prompt=[1] * 1000)], 0.0)
        assert scheduler.num_waiting == 1


@pytest.mark.parametrize("exact", [False, True])
class TestMakingWay:
    def test_a_request_below_zero_gives_its_slot_and_comes_back_with_its_tokens(self, exact):
        scheduler = make_scheduler(max_num_seqs=1, exact=exact)
        low, high = request(0, priority=-1, max_tokens=6), request(1, max_tokens=2)
        scheduler.add([low], 0.0)
        steps_until(scheduler, lambda _: low.num_own_tokens >= 2)
        scheduler.add([high], 0.0)
        steps_until(scheduler, lambda _: high.state is SequenceState.FINISHED)
        assert low.state is not SequenceState.FINISHED
        before = low.num_own_tokens
        assert before >= 2
        steps_until(scheduler, lambda _: low.state is SequenceState.FINISHED)
        assert low.num_own_tokens == 6
        scheduler.check_integrity()

    def test_a_request_below_zero_gives_its_blocks(self, exact):
        scheduler = make_scheduler(num_blocks=5, block_size=4, exact=exact)
        low = request(0, priority=-1, prompt=[3] * 6, max_tokens=8)
        high = request(1, prompt=[4] * 7, max_tokens=6)
        scheduler.add([low], 0.0)
        steps_until(scheduler, lambda _: low.num_own_tokens >= 3)
        scheduler.add([high], 0.0)
        steps_until(scheduler, lambda _: high.state is SequenceState.FINISHED)
        assert low.state is not SequenceState.FINISHED
        steps_until(scheduler, lambda _: low.state is SequenceState.FINISHED, limit=40)
        scheduler.check_integrity()

    def test_from_zero_on_nobody_makes_way(self, exact):
        scheduler = make_scheduler(max_num_seqs=1, exact=exact)
        first, high = request(0, max_tokens=4), request(1, priority=9, max_tokens=2)
        scheduler.add([first], 0.0)
        step(scheduler)
        scheduler.add([high], 0.0)
        steps_until(scheduler, lambda _: first.state is SequenceState.FINISHED)
        assert high.num_own_tokens == 0


def test_a_short_prompt_of_a_lower_priority_overtakes_nobody():
    scheduler = make_scheduler(max_num_batched_tokens=8)
    scheduler.add([request(0, prompt=[5] * 24, source="a")], 0.0)
    scheduler.add([request(1, prompt=[6], priority=-1, source="b")], 0.0)
    assert [step(scheduler) for _ in range(2)] == [{0}, {0}]


def test_a_deadline_is_refused_by_the_pace_that_was_measured():
    scheduler = make_scheduler(max_num_seqs=1, max_queue_len=99)
    for number in range(9):
        scheduler.add([request(number, max_tokens=1)], 0.0)
    now = 0.0
    while scheduler.num_waiting > 1:
        step(scheduler, now)
        now += 1.0
        scheduler.on_step(1, 1.0, now)
    for number in range(10, 14):
        scheduler.add([request(number)], now)
    late = request(20, deadline=now + 2.0)
    with pytest.raises(AdmissionError, match=r"5 requests are ahead") as caught:
        scheduler.add([late], now)
    assert caught.value.kind == "overloaded"
    assert caught.value.retry_after >= 1
    scheduler.add([request(21, deadline=now + 60.0)], now)
