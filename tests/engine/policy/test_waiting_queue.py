"""The order of what waits, and what counts as full; who leaves the queue is for the scheduler."""

from __future__ import annotations

from server.engine.policy.sequence import LoadedVersion
from server.engine.policy.waiting_queue import WaitingQueue
from tests.engine.builders import make_choices


def queue_of(*requests, max_len=2):
    queue = WaitingQueue(max_len)
    for seqs in requests:
        queue.add(seqs)
    return queue


def requests(*num_choices):
    return [make_choices([1], n, request_id=i) for i, n in enumerate(num_choices)]


def test_a_queue_keeps_the_order_of_arrival():
    first, second = requests(2, 1)
    assert list(queue_of(first, second)) == [*first, *second]


def test_what_comes_first_stands_before_what_waits_and_keeps_its_own_order():
    waiting, urgent = requests(1, 2)
    queue = queue_of(waiting)
    queue.add(urgent, first=True)
    assert list(queue) == [*urgent, *waiting]


def test_a_queue_is_full_of_requests_and_not_of_their_choices():
    many, one = requests(5, 1)
    queue = queue_of(many, max_len=2)
    assert (len(queue), queue.num_requests, queue.is_full) == (5, 1, False)
    queue.add(one)
    assert (len(queue), queue.num_requests, queue.is_full) == (6, 2, True)


def test_two_clients_may_number_their_requests_alike():
    ours, theirs = make_choices([1], 1), make_choices([1], 1)
    theirs[0].client = 2
    assert queue_of(ours, theirs).num_requests == 2


def test_choices_of_one_request_are_bound_to_one_version():
    first, second = requests(2, 1)
    queue = queue_of(first, second)
    queue.bind(first[0].request, LoadedVersion("2", 1))
    assert [seq.version for seq in queue] == [LoadedVersion("2", 1)] * 2 + [None]


class TestRelease:
    def test_the_first_request_that_has_not_run_leaves_with_all_its_choices(self):
        begun, first, second = requests(1, 2, 1)
        begun[0].first_scheduled_time = 0.0
        queue = queue_of(begun, first, second)
        assert queue.release_request([]) == first
        assert list(queue) == [*begun, *second]

    def test_a_request_with_a_running_choice_stays(self):
        (running, *waiting), other = requests(2, 1)
        queue = queue_of(waiting, other)
        assert queue.release_request([running]) == other
        assert queue.release_request([running]) == []

    def test_a_starved_sequence_that_left_keeps_nobody_waiting_any_more(self):
        first, second = requests(1, 1)
        queue = queue_of(first, second)
        queue.starved = second[0]
        queue.release_request([])
        assert queue.starved is second[0]
        queue.release_request([])
        assert queue.starved is None
