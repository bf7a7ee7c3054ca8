"""How a token is computed depends on its own sequence only: which chunk, or as which decode."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.policy.blocks.layer_kinds import KVKind
from tests.engine.builders import make_blocks, make_ranks, make_sequence
from tests.engine.policy.test_scheduler import add, finish_all, results, run, shape

# With blocks of 4 tokens and chunks of 8.
PROMPT = list(range(18))


def ranks(**limits):
    return make_ranks(exact=True, **limits)


def resume(scheduler, prompt, received, **fields):
    seq = make_sequence(prompt, received=received, **fields)
    scheduler.add([seq], 0.0)
    return seq


class TestChunks:
    def test_a_prompt_is_cut_at_multiples_whatever_else_waits(self):
        scheduler = ranks()
        add(scheduler, [1, 2, 3], request_id=1)
        add(scheduler, PROMPT, request_id=2)
        assert shape(run(scheduler)[0]) == [(1, 0, 3)]
        run(scheduler)
        assert shape(run(scheduler)[0]) == [(2, 0, 8)]

    def test_prompts_that_fit_whole_share_a_step(self):
        scheduler = ranks()
        add(scheduler, [1, 2, 3], request_id=1)
        add(scheduler, [4, 5, 6, 7], request_id=2)
        assert shape(run(scheduler)[0]) == [(1, 0, 3), (2, 0, 4)]

    def test_a_last_chunk_leaves_room_for_a_prompt_that_fits_whole(self):
        scheduler = ranks()
        add(scheduler, range(10), request_id=1)
        run(scheduler)
        add(scheduler, [1, 2, 3], request_id=2)
        assert shape(run(scheduler)[0]) == [(1, 8, 2), (2, 0, 3)]


class TestTurns:
    def test_a_step_has_chunks_or_decodes_never_both(self):
        scheduler = ranks()
        add(scheduler, [1, 2], request_id=1)
        run(scheduler)
        add(scheduler, PROMPT, request_id=2)
        found = [shape(run(scheduler)[0]) for _ in range(5)]
        assert found == [[(1, 2, 1)], [(2, 0, 8)], [(1, 3, 1)], [(2, 8, 8)], [(1, 4, 1)]]

    def test_chunks_run_in_every_step_while_nothing_decodes(self):
        scheduler = ranks()
        add(scheduler, PROMPT)
        assert [shape(run(scheduler)[0]) for _ in range(3)] == [
            [(0, 0, 8)],
            [(0, 8, 8)],
            [(0, 16, 2)],
        ]

    def test_decodes_run_in_every_step_while_no_prompt_waits(self):
        scheduler = ranks()
        add(scheduler, [1, 2, 3])
        run(scheduler)
        assert [shape(run(scheduler)[0]) for _ in range(2)] == [[(0, 3, 1)], [(0, 4, 1)]]


class TestReplays:
    def test_received_tokens_are_decoded_one_by_one_and_only_the_last_samples(self):
        scheduler = ranks()
        resume(scheduler, [1, 2, 3], [4, 5, 6])
        rows = [run(scheduler)[0].rows[0] for _ in range(4)]
        assert [(row.num_computed_tokens, row.num_scheduled_tokens) for row in rows] == [
            (0, 3), (3, 1), (4, 1), (5, 1),
        ]  # fmt: skip
        assert [row.is_decode for row in rows] == [False, True, True, True]
        assert [row.is_sampling for row in rows] == [False, False, False, True]

    def test_a_preempted_sequence_comes_back_as_it_was_computed_first(self):
        scheduler = ranks()
        seq = add(scheduler, [1, 2, 3])
        for _ in range(3):
            run(scheduler)
        scheduler.schedulers[0]._choice.preempt(seq)
        assert [shape(run(scheduler)[0])[0][1:] for _ in range(3)] == [(0, 3), (3, 1), (4, 1)]

    def test_what_was_received_whole_ends_after_its_prompt(self):
        scheduler = ranks()
        resume(scheduler, [1, 2, 3], [4, 5], max_tokens=2)
        _, events = run(scheduler)
        assert [event.finish_reason for _, event in events] == ["length"]


class TestPrefixes:
    def computed_first(self, scheduler, prompt, **fields):
        """The first position that a new sequence computes."""
        add(scheduler, prompt, request_id=9, **fields)
        [first] = [row[1] for row in shape(run(scheduler)[0]) if row[0] == 9]
        finish_all(scheduler)
        return first

    def test_a_prefix_is_found_in_whole_chunks(self):
        scheduler = ranks()
        add(scheduler, PROMPT)
        finish_all(scheduler)
        assert self.computed_first(scheduler, [*PROMPT[:15], 99, 99]) == 8
        assert self.computed_first(scheduler, [*PROMPT[:16], 99, 99]) == 16

    def test_generated_tokens_are_not_found(self):
        scheduler = ranks()
        seq = add(scheduler, PROMPT[:9], max_tokens=20)
        finish_all(scheduler)
        assert self.computed_first(scheduler, [*seq.token_ids, 1]) == 8

    def test_the_last_chunk_of_a_prompt_is_always_computed(self):
        scheduler = ranks()
        add(scheduler, PROMPT[:16])
        finish_all(scheduler)
        assert self.computed_first(scheduler, PROMPT[:16]) == 8

    def test_found_are_multiples_of_blocks_and_of_chunks(self):
        blocks = make_blocks(32, 4, chunk=6)
        assert [blocks.num_shareable_blocks(n) for n in (12, 13, 24, 25)] == [0, 3, 3, 6]


def trace(batch):
    """By request and position: how it is computed."""
    return {
        (row.seq.request_id, position): "decode"
        if row.is_decode
        else (row.num_computed_tokens, row.end)
        for row in batch.rows
        for position in range(row.num_computed_tokens, row.end)
    }


LENGTHS = st.tuples(st.integers(1, 30), st.integers(0, 7))


@given(
    st.lists(LENGTHS, min_size=1, max_size=7),
    st.integers(11, 40),
    st.integers(6, 16),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_every_position_is_computed_as_it_is_alone(lengths, num_blocks, num_in_window, is_shared):
    """With preemption, with prompts that begin alike, with streams that are resumed.

    A chunk that finds no blocks for all of it preempts others instead of being cut.
    """
    scheduler = ranks(kinds=(KVKind(None, num_blocks), KVKind(8, num_in_window)))
    for i, (length, num_received) in enumerate(lengths):
        start = 0 if is_shared else 100 * i
        resume(scheduler, range(start, start + length), [1] * num_received, request_id=i)
    while scheduler.num_unfinished:
        batch = scheduler.schedule(0.0)
        for row in batch.rows:
            assert all(4 * len(table) >= row.end for table in row.seq.block_tables)
        for (request, position), how in trace(batch).items():
            length = lengths[request][0]
            begin = position - position % 8
            whole = (begin, min(begin + 8, length))
            assert how == (whole if position < length else "decode")
        scheduler.postprocess(batch, results(batch))
    scheduler.check_integrity()


@pytest.mark.parametrize("num_received", [0, 3])
def test_the_engine_gives_the_same_tokens(num_received):
    from tests.engine.test_engine import Bench

    usual, exact = Bench(), Bench(exact=True)
    [expected] = usual.submit(1, PROMPT, max_tokens=12)
    exact.submit(1, PROMPT, max_tokens=12, received=[expected[:num_received]])
    exact.submit(2, PROMPT[:3], max_tokens=12)
    exact.drain()
    assert exact.tokens(1) == expected[num_received:]
