"""Slots of adapters: who holds one, whose goes first, and what becomes of unloaded adapters."""

from __future__ import annotations

import pytest

from server.engine.policy.adapter_slots import AdapterSlots
from server.engine.policy.admission import AdmissionError
from server.engine.policy.sequences.loaded_adapter import LoadedAdapter
from server.engine.policy.sequences.step import RowResult, StepResult
from tests.engine.builders import make_ranks, make_sequence

A, B, C = (LoadedAdapter(name, "1", number) for number, name in enumerate("abc"))


def make_slots(num_slots=2):
    slots = AdapterSlots(num_slots)
    slots.gone = []
    slots.on_gone = slots.gone.append
    for adapter in (A, B, C):
        slots.open(adapter)
    return slots


def use(slots, adapter):
    number = slots.hold(adapter)
    slots.release(adapter)
    return number


def test_a_slot_that_nobody_holds_keeps_its_adapter_until_another_needs_it():
    slots = make_slots()
    assert (use(slots, A), use(slots, B), use(slots, A)) == (1, 2, 1)
    assert slots.take_placements() == ((A, 1), (B, 2))
    # B was used least recently.
    assert use(slots, C) == 2
    assert slots.take_placements() == ((C, 2),)
    assert use(slots, A) == 1
    assert slots.take_placements() == ()


def test_no_adapter_needs_no_slot():
    slots = make_slots(0)
    assert slots.may_start(None, "rank")
    assert slots.hold(None) == 0
    slots.release(None)
    assert not slots.take_placements()


def test_a_held_slot_is_nobody_elses_and_the_oldest_is_closed_until_it_is_free():
    slots = make_slots()
    slots.hold(A)
    slots.hold(B)
    assert slots.may_start(A, 0)
    assert not slots.may_start(C, 0)
    # Behind C, no sequence may hold A, which has its slot for longest; on no rank.
    assert not slots.may_start(A, 0)
    assert not slots.may_start(A, 1)
    assert slots.may_start(B, 0)
    slots.release(A)
    slots.begin_pass(0)
    assert slots.may_start(C, 0)
    assert slots.hold(C) == 1


def test_an_adapter_is_found_by_name_and_in_the_version_that_is_loaded():
    slots = make_slots()
    assert slots.find(None) is None
    assert slots.find("a") == slots.find("a", "1") == A
    for name, version in (("x", None), ("a", "2")):
        with pytest.raises(AdmissionError, match=f"adapter {name}.* is not loaded here"):
            slots.find(name, version)


def test_an_unloaded_adapter_goes_when_its_last_choice_ends_and_frees_its_slot():
    slots = make_slots(1)
    slots.begin(A)
    slots.hold(A)
    assert slots.close("a")
    assert not slots.close("a")
    assert slots.gone == []
    assert not slots.may_start(B, 0)
    slots.release(A)
    slots.end(A)
    slots.begin_pass(0)
    assert slots.gone == [A]
    assert slots.may_start(B, 0)
    assert slots.close("c")
    assert slots.gone == [A, C]


def test_an_adapter_loaded_again_takes_the_place_of_the_loading_before():
    slots = make_slots()
    again = LoadedAdapter("a", "2", 7)
    slots.open(again)
    assert slots.find("a") == again
    assert slots.gone == [A]
    assert set(slots.opened) == {again, B, C}


def test_running_and_waiting_adapters_are_told_apart():
    slots = make_slots(1)
    for adapter in (A, A, B):
        slots.begin(adapter)
    slots.hold(A)
    assert (slots.running, slots.waiting) == (("a",), ("a", "b"))
    slots.hold(A)
    assert (slots.running, slots.waiting) == (("a",), ("b",))


class Bench:
    """One rank whose sequences never end by themselves."""

    def __init__(self, num_slots, **limits):
        self.slots = make_slots(num_slots)
        self.ranks = make_ranks(adapters=self.slots, **limits)

    def add(self, request_id, adapter):
        seq = make_sequence([1, 2, 3], request_id=request_id, adapter=adapter, max_tokens=30)
        self.ranks.add([seq], 0.0)
        return seq

    def step(self):
        batch = self.ranks.schedule(0.0)
        rows = tuple(RowResult((5,) if row.is_sampling else ()) for row in batch.rows)
        self.ranks.postprocess(batch, StepResult(rows))
        return {row.seq for row in batch.rows}, batch.placements


def test_rows_of_several_adapters_and_of_none_run_in_one_step_and_others_wait():
    bench = Bench(2)
    first, base, second, third = (bench.add(i, a) for i, a in enumerate((A, None, B, C)))
    rows, placements = bench.step()
    if len(rows) < 3:  # The budget of a step holds two prompts.
        rows, more = bench.step()
        placements += more
    assert rows == {first, base, second}
    assert dict(placements) == {A: 1, B: 2}
    assert (first.adapter_slot, base.adapter_slot, second.adapter_slot) == (1, 0, 2)
    bench.ranks.finish(first, "abort")
    rows, placements = bench.step()
    assert third in rows
    assert placements == ((C, 1),)


def test_a_sequence_that_waits_for_a_slot_gets_it_although_more_requests_of_the_holder_come():
    bench = Bench(1, max_num_seqs=3)
    running = bench.add(0, A)
    bench.step()
    waiting = bench.add(1, B)
    later = bench.add(2, A)
    assert later not in bench.step()[0]
    bench.ranks.finish(running, "abort")
    assert waiting in bench.step()[0]
    bench.ranks.finish(waiting, "abort")
    assert later in bench.step()[0]
    assert later.adapter_slot == 1


def test_a_prefix_is_found_by_the_same_loading_only():
    bench = Bench(2, max_num_batched_tokens=16)
    found = {}
    for request_id, adapter in enumerate((A, None, B, A, LoadedAdapter("a", "1", 9))):
        seq = make_sequence(range(9), request_id=request_id, adapter=adapter, max_tokens=1)
        bench.ranks.add([seq], 0.0)
        bench.step()
        found[request_id] = seq.num_cached_tokens
    assert found == {0: 0, 1: 0, 2: 0, 3: 8, 4: 0}
