"""How many drafts a sequence makes, when it makes none, and which of them come true."""

from __future__ import annotations

import pytest

from server.engine.policy.drafts.drafter import Drafter, num_accepted

# The text of a loop: whatever comes next is known.
LOOP = [1, 2, 3, 4] * 50


@pytest.mark.parametrize(
    ("drafts", "drawn", "expected"),
    [
        ((), (5,), 0),
        ((5,), (5, 6), 1),
        ((5,), (4, 6), 0),
        ((5, 6, 7), (5, 6, 8, 9), 2),
        ((5, 6, 7), (4, 6, 7, 9), 0),
        ((5, 6), (5, 6, 7), 2),
    ],
)
def test_drafts_come_true_up_to_the_first_that_does_not(drafts, drawn, expected):
    assert num_accepted(drafts, drawn) == expected


def test_a_drafter_asks_for_more_where_drafts_come_true():
    drafter = Drafter()
    counts = []
    for _ in range(8):
        drafts = drafter.drafts(LOOP, 7)
        counts.append(len(drafts))
        drafter.note(len(drafts))
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (3, 7)


def test_drafts_are_never_more_than_there_is_room_for():
    assert len(Drafter().drafts(LOOP, 2)) == 2
    assert Drafter().drafts(LOOP, 0) == []


def fail(drafter, length):
    """Attempts that gain nothing until the drafter pauses: how many."""
    count = 0
    while drafter.drafts(LOOP[:length], 7):
        drafter.note(0)
        count += 1
    return count


def test_after_failures_it_makes_none_for_a_while_then_tries_again():
    drafter = Drafter()
    assert fail(drafter, 20) == 5
    assert drafter.drafts(LOOP[:27], 7) == []
    assert drafter.drafts(LOOP[:28], 7)


def test_each_pause_after_more_failures_is_longer_until_drafts_come_true():
    drafter = Drafter()
    fail(drafter, 20)
    fail(drafter, 40)
    assert drafter.drafts(LOOP[:55], 7) == []
    assert drafter.drafts(LOOP[:56], 7)
    drafter.note(5)  # It gains again: the next pause is a short one.
    while drafter.drafts(LOOP[:60], 7):
        drafter.note(0)
    assert drafter.drafts(LOOP[:68], 7)
