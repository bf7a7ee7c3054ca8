"""Slots and blocks of what runs, taken and given back together."""

from __future__ import annotations

import pytest

from server.engine.policy.adapter_slots import AdapterSlots
from server.engine.policy.blocks.block_pool import IntegrityError
from server.engine.policy.running_set import RunningSet
from server.engine.policy.sequences.sequence import SequenceState
from tests.engine.builders import is_all_free, make_blocks, make_sequence


def start(running, prompt):
    seq = make_sequence(prompt)
    assert running.start(seq, len(prompt), 8)
    return seq


def test_whoever_starts_has_a_slot_and_blocks_and_is_the_newest():
    running = RunningSet(make_blocks(9, 4), 2, AdapterSlots())
    first, second = start(running, [1] * 5), start(running, [2])
    assert list(running) == [first, second]
    assert running.last_from(first) is second
    assert [seq.slot for seq in running] == [0, 1]
    assert [len(seq.block_tables[0]) for seq in running] == [2, 1]
    assert first.state is SequenceState.RUNNING
    assert running.num_free_slots == 0


def test_whoever_stops_gives_back_both():
    blocks = make_blocks(9, 4)
    running = RunningSet(blocks, 1, AdapterSlots())
    seq = start(running, [1] * 5)
    running.stop(seq)
    assert (seq.slot, seq.block_tables, len(running)) == (-1, (), 0)
    assert running.num_free_slots == 1
    assert is_all_free(blocks)


def test_nothing_changes_for_whoever_would_leave_another_no_block_to_grow_into():
    running = RunningSet(make_blocks(4, 4), 2, AdapterSlots())
    start(running, [1] * 4)
    late = make_sequence([2] * 8)
    assert not running.start(late, 8, 8)
    assert (late.state, late.slot, late.block_tables) == (SequenceState.WAITING, -1, ())
    running.check_integrity()


def test_a_slot_that_two_have_is_found():
    running = RunningSet(make_blocks(9, 4), 2, AdapterSlots())
    first, second = start(running, [1]), start(running, [2])
    running.check_integrity()
    second.slot = first.slot
    with pytest.raises(IntegrityError, match="slots are lost or held twice"):
        running.check_integrity()
