"""The order of what waits, and what counts as full; who leaves the queue is for the scheduler."""

from __future__ import annotations

from server.engine.policy.queue.waiting_queue import WaitingQueue
from server.engine.policy.sequences.sequence import LoadedVersion
from tests.engine.builders import make_choices


def queue_of(*requests, max_len=2):
    queue = WaitingQueue(max_len)
    for seqs in requests:
        queue.add(seqs)
    return queue


def requests(*num_choices):
    return [make_choices([1], n, request_id=i) for i, n in enumerate(num_choices)]


def from_source(source, *seqs):
    for seq in seqs:
        seq.source = source
    return list(seqs)


def order(queue):
    return list(queue.in_turn())


def take_all(queue):
    """The requests, by number, in the order in which one choice after another is taken."""
    taken = []
    while len(queue):
        seq = next(queue.in_turn())
        queue.take(seq)
        taken.append(seq.request_id)
    return taken


def test_requests_of_one_choice_keep_the_order_of_their_arrival():
    first, second, third = requests(1, 1, 1)
    assert order(queue_of(first, second, third)) == [*first, *second, *third]


class TestTurns:
    def test_a_turn_of_a_request_is_one_choice(self):
        (one, two, three), other = requests(3, 1)
        assert order(queue_of([one, two, three], other)) == [one, *other, two, three]

    def test_a_source_with_many_requests_has_one_turn_as_a_source_with_one_has(self):
        first, second, third, other = requests(1, 1, 1, 1)
        from_source("a", *first, *second, *third)
        from_source("b", *other)
        assert order(queue_of(first, second, third, other)) == [*first, *other, *second, *third]

    def test_whoever_had_its_turn_waits_until_all_others_had_theirs(self):
        many, other = requests(4, 2)
        from_source("a", *many)
        queue = queue_of(many)
        queue.take(many[0])
        queue.add(from_source("b", *other))
        assert take_all(queue) == [0, 1, 0, 1, 0]

    def test_sources_that_come_later_do_not_put_off_one_that_waits(self):
        many, *later = requests(3, 1, 1, 1)
        queue = queue_of(many, max_len=9)
        taken = []
        for number, other in enumerate(later):
            queue.add(from_source(str(number), *other))
            seq = next(queue.in_turn())
            queue.take(seq)
            taken.append(seq.request_id)
        assert (taken, take_all(queue)) == ([0, 1, 0], [2, 3, 0])

    def test_a_choice_that_leaves_before_its_turn_costs_its_request_none(self):
        (one, two), other = requests(2, 1)
        queue = queue_of([one, two], other)
        queue.remove(one)
        assert order(queue) == [two, *other]

    def test_taking_what_stands_first_is_nobodys_turn(self):
        (begun, *rest), other = requests(3, 1)
        queue = queue_of(rest, other)
        queue.add([begun], first=True)
        queue.take(begun)
        assert order(queue) == [rest[0], *other, rest[1]]


def test_what_comes_first_stands_before_what_waits_and_keeps_its_own_order():
    waiting, urgent = requests(1, 2)
    queue = queue_of(waiting)
    queue.add(urgent, first=True)
    assert order(queue) == [*urgent, *waiting]


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
    assert [seq.version for seq in (*first, *second)] == [LoadedVersion("2", 1)] * 2 + [None]


class TestRelease:
    def test_the_first_request_that_has_not_run_leaves_with_all_its_choices(self):
        begun, first, second = requests(1, 2, 1)
        begun[0].first_scheduled_time = 0.0
        queue = queue_of(begun, first, second)
        assert queue.release_request([]) == first
        assert order(queue) == [*begun, *second]

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


def test_a_full_queue_has_room_for_a_source_with_less_than_its_part():
    greedy = requests(*[1] * 6)
    queue = WaitingQueue(4)
    for seqs in greedy[:4]:
        queue.add(from_source("greedy", *seqs))
    assert queue.is_full
    assert not queue.has_room_for("greedy")
    assert queue.has_room_for("small")
    queue.add(from_source("small", *greedy[4]))
    queue.add(from_source("small", *greedy[5]))
    assert not queue.has_room_for("small"), "its part of 4 for two sources is 2"


def test_no_source_gets_into_a_queue_of_twice_its_length():
    queue = WaitingQueue(2)
    for number, seqs in enumerate(requests(1, 1, 1, 1)):
        queue.add(from_source(str(number), *seqs))
    assert not queue.has_room_for("another")


def test_one_choice_stands_for_a_request_and_each_preempted_choice_for_itself():
    (one, two, three), other = requests(3, 1)
    queue = queue_of([two, three], other)
    queue.add([one], first=True)
    assert list(queue.heads()) == [one, two, *other]
    assert [queue.alike(head) for head in queue.heads()] == [[one], [two, three], other]
