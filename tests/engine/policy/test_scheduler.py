from __future__ import annotations

import pytest

from server.engine.policy.admission import AdmissionError
from server.engine.policy.blocks.block_pool import IntegrityError
from server.engine.policy.blocks.layer_kinds import KVKind
from server.engine.policy.sequences.block_table import block_table
from server.engine.policy.sequences.sequence import LoadedVersion, SequenceState
from server.engine.policy.sequences.step import RowResult, StepResult
from tests.engine.builders import is_all_free, make_choices, make_ranks, make_sequence, serve
from tests.engine.fakes import EOS, logprob_of


def add(scheduler, prompt, n=1, now=0.0, **kwargs):
    seqs = make_choices(prompt, n, **kwargs)
    scheduler.add(seqs, now)
    return seqs if n > 1 else seqs[0]


def results(batch, token=1, **fields):
    """Every sampling row draws `token`."""
    return StepResult(
        tuple(RowResult((token,) if row.is_sampling else (), **fields) for row in batch.rows)
    )


def run(scheduler, token=1, **fields):
    """One whole step, read at once."""
    batch = scheduler.schedule(0.0)
    return batch, scheduler.postprocess(batch, results(batch, token, **fields))


def shape(batch):
    """(request, first position, number of tokens) of every row."""
    return [
        (row.seq.request_id, row.num_computed_tokens, row.num_scheduled_tokens)
        for row in batch.rows
    ]


def blocks_of(scheduler):
    (only,) = scheduler.schedulers
    return only.block_manager


def preempt(scheduler, seq):
    """As a sequence that finds no block would."""
    (only,) = scheduler.schedulers
    only._choice.preempt(seq)


def finish_all(scheduler):
    while scheduler.num_unfinished:
        run(scheduler)
    scheduler.check_integrity()
    assert is_all_free(blocks_of(scheduler))


class TestBudget:
    def test_nothing_to_do_is_a_falsy_batch(self):
        batch = make_ranks().schedule(0.0)
        assert not batch
        assert batch.num_tokens == 0

    def test_limits_that_would_starve_decodes_are_refused(self):
        with pytest.raises(ValueError, match="max_num_batched_tokens 3 is below max_num_seqs 4"):
            make_ranks(max_num_batched_tokens=3, max_num_seqs=4)

    def test_a_long_prompt_runs_in_chunks_and_samples_with_the_last(self):
        scheduler = make_ranks()
        add(scheduler, range(18))
        first, _ = run(scheduler)
        second, _ = run(scheduler)
        third, events = run(scheduler)
        assert shape(first) == [(0, 0, 8)]
        assert shape(second) == [(0, 8, 8)]
        assert shape(third) == [(0, 16, 2)]
        assert [batch.rows[0].is_sampling for batch in (first, second, third)] == [0, 0, 1]
        assert [batch.rows[0].is_admitted for batch in (first, second, third)] == [1, 0, 0]
        assert events[0][1].token_ids == [1]

    def test_decodes_run_in_every_step_beside_a_long_prompt(self):
        scheduler = make_ranks()
        add(scheduler, [1, 2], request_id=1)
        run(scheduler)
        add(scheduler, range(30), request_id=2)
        assert shape(run(scheduler)[0]) == [(1, 2, 1), (2, 0, 7)]
        assert shape(run(scheduler)[0]) == [(1, 3, 1), (2, 7, 7)]

    def test_admissions_take_what_decodes_and_chunks_leave(self):
        scheduler = make_ranks()
        add(scheduler, [1, 2], request_id=1)
        run(scheduler)
        add(scheduler, range(10), request_id=2)
        add(scheduler, range(50, 60), request_id=3)
        assert shape(run(scheduler)[0]) == [(1, 2, 1), (2, 0, 7)]
        assert shape(run(scheduler)[0]) == [(1, 3, 1), (2, 7, 3), (3, 0, 4)]

    def test_no_more_sequences_run_than_there_are_slots(self):
        scheduler = make_ranks(max_num_seqs=2)
        for request_id in range(3):
            add(scheduler, [1], request_id=request_id)
        batch, _ = run(scheduler)
        assert [row.seq.slot for row in batch.rows] == [0, 1]
        assert scheduler.load().num_sequences_running == 2
        assert scheduler.load().num_requests_waiting == 1

    def test_a_freed_slot_goes_to_the_next_in_line(self):
        scheduler = make_ranks(max_num_seqs=2)
        seqs = [add(scheduler, [1], request_id=request_id) for request_id in range(4)]
        run(scheduler)
        scheduler.finish(seqs[0], "abort")
        batch, _ = run(scheduler)
        assert [(row.seq.request_id, row.seq.slot) for row in batch.rows] == [(1, 1), (2, 0)]

    def test_a_small_request_does_not_overtake_a_large_one(self):
        scheduler = make_ranks(num_blocks=8)
        add(scheduler, range(8), request_id=1)
        run(scheduler)
        add(scheduler, range(50, 66), request_id=2)
        add(scheduler, [1], request_id=3)
        assert shape(run(scheduler)[0]) == [(1, 8, 1)]
        assert scheduler.load().num_requests_waiting == 2

    def test_admission_leaves_each_running_sequence_a_block_to_grow_into(self):
        scheduler = make_ranks(num_blocks=5)
        add(scheduler, range(6), request_id=1)
        run(scheduler)
        add(scheduler, range(50, 56), request_id=2)
        assert shape(run(scheduler)[0]) == [(1, 6, 1)]

    def test_a_resumed_sequence_with_one_token_left_is_a_decode_and_stands_with_them(self):
        scheduler = make_ranks(block_size=2)
        resumed = add(scheduler, [1, 2, 3], request_id=1)
        run(scheduler)
        run(scheduler)
        add(scheduler, range(50, 67), request_id=2)
        run(scheduler)
        run(scheduler)
        preempt(scheduler, resumed)
        batch, _ = run(scheduler)
        assert shape(batch) == [(1, 6, 1), (2, 14, 3)]
        assert [(row.is_admitted, row.is_decode) for row in batch.rows] == [(1, 1), (0, 0)]
        finish_all(scheduler)


class TestShortPrompts:
    """Steps of 16 tokens; long prompts of 60, each of tokens of its own."""

    def crowd(self, num_long=20, **limits):
        defaults = {"num_blocks": 400, "max_num_seqs": 12, "max_num_batched_tokens": 16}
        scheduler = make_ranks(**defaults | {"max_queue_len": 99} | limits)
        for number in range(num_long):
            add(scheduler, [number] * 60, request_id=number, max_tokens=2)
        return scheduler

    def num_steps_to_first_token(self, scheduler, seq, most=999):
        """Of the overlapped loop: a step is scheduled before the one before it is read."""
        unread = scheduler.schedule(0.0)
        for num_steps in range(1, most):
            following = scheduler.schedule(0.0)
            scheduler.postprocess(unread, results(unread))
            unread = following
            if seq.has_begun:
                return num_steps
        raise AssertionError(f"no token in {most} steps")

    def test_a_short_prompt_behind_twenty_long_ones_begins_in_the_next_step(self):
        scheduler = self.crowd()
        for _ in range(5):
            run(scheduler)
        short = add(scheduler, [50, 51, 52], request_id=50)
        assert self.num_steps_to_first_token(scheduler, short) == 1

    def test_a_prompt_of_middle_length_is_halfway_between(self):
        scheduler = self.crowd()
        run(scheduler)
        middle = add(scheduler, [50] * 30, request_id=50)
        assert self.num_steps_to_first_token(scheduler, middle) == 4

    def test_the_oldest_prompt_goes_on_however_many_short_ones_arrive(self):
        scheduler = self.crowd(1, max_num_seqs=4)
        (longest,) = scheduler.schedulers[0]._waiting
        run(scheduler)
        for number in range(100, 110):
            if longest.has_begun:
                break
            for half in (0, 1):
                add(scheduler, [1, 2, 3], request_id=2 * number + half, max_tokens=1)
            run(scheduler)
        assert longest.has_begun
        assert number <= 106, "at least half of every step was for it"

    def test_few_long_prompts_are_under_way_at_once(self):
        scheduler = self.crowd()
        for _ in range(30):
            batch, _ = run(scheduler)
            assert sum(not row.is_sampling for row in batch.rows) <= 2
        finish_all(scheduler)

    def test_what_decodes_is_in_every_step(self):
        scheduler = self.crowd(0)
        add(scheduler, [1], request_id=90, max_tokens=20)
        run(scheduler)
        for number in range(8):
            add(scheduler, [number] * 60, request_id=number)
            add(scheduler, [number, 70], request_id=50 + number, max_tokens=1)
        for _ in range(18):
            batch, _ = run(scheduler)
            assert batch.rows[0].seq.request_id == 90
            assert batch.num_tokens <= 16

    def test_the_last_slot_is_for_whose_turn_it_is(self):
        scheduler = self.crowd(2, max_num_seqs=2)
        run(scheduler)
        add(scheduler, [50, 51, 52], request_id=50)
        admitted = []
        while len(admitted) < 2:
            batch, _ = run(scheduler)
            admitted += [row.seq.request_id for row in batch.rows if row.is_admitted]
        assert admitted == [1, 50]

    def test_a_short_prompt_takes_no_blocks_that_a_long_one_waits_for(self):
        scheduler = self.crowd(0, num_blocks=20)
        add(scheduler, range(30), request_id=1, max_tokens=4)
        run(scheduler)
        run(scheduler)
        large = add(scheduler, range(100, 150), request_id=2, max_tokens=1)
        run(scheduler)
        add(scheduler, [50, 51, 52], request_id=3)
        batch, _ = run(scheduler)
        assert shape(batch) == [(1, 31, 1)]
        finish_all(scheduler)
        assert large.finish_reason == "length"

    def test_a_long_prompt_that_is_cached_but_for_its_end_counts_as_short(self):
        scheduler = self.crowd(0)
        add(scheduler, [*range(50), 1], request_id=80, max_tokens=1)
        for _ in range(4):
            run(scheduler)
        for number in range(20):
            add(scheduler, [number] * 60, request_id=number)
        run(scheduler)
        again = add(scheduler, [*range(50), 2], request_id=81)
        assert self.num_steps_to_first_token(scheduler, again) == 1


class TestFairness:
    def test_a_request_of_many_choices_does_not_take_every_slot_that_gets_free(self):
        scheduler = make_ranks(max_num_seqs=2, max_queue_len=9)
        add(scheduler, [1, 2], n=6, request_id=1, max_tokens=3, source="a")
        run(scheduler)
        one = add(scheduler, [3], request_id=2, max_tokens=1, source="b")
        order = []
        while not one.has_begun:
            batch, _ = run(scheduler)
            order += [row.seq.request_id for row in batch.rows if row.is_admitted]
        assert order == [1, 2]
        finish_all(scheduler)

    def test_sources_take_turns_whatever_they_have_queued(self):
        scheduler = make_ranks(max_num_seqs=1, max_queue_len=99)
        for number in range(6):
            add(scheduler, [number], request_id=number, max_tokens=1, source="a")
        for number in range(10, 12):
            add(scheduler, [number], request_id=number, max_tokens=1, source="b")
        order = [run(scheduler)[0].rows[0].seq.request_id for _ in range(8)]
        assert order == [0, 10, 1, 11, 2, 3, 4, 5]


class TestFinishing:
    def tokens(self, scheduler, *tokens):
        """Feed these tokens, one a step; the events of the only sequence."""
        return [event for token in tokens for _, event in run(scheduler, token)[1]]

    def test_max_tokens_ends_with_length_and_is_known_ahead(self):
        scheduler = make_ranks()
        add(scheduler, [1, 2], max_tokens=2)
        first = scheduler.schedule(0.0)
        second = scheduler.schedule(0.0)
        assert shape(second) == [(0, 2, 1)]
        scheduler.postprocess(first, results(first))
        assert not scheduler.schedule(0.0), "no step is scheduled past the limit"
        [(_, event)] = scheduler.postprocess(second, results(second))
        assert event.finish_reason == "length"
        finish_all(scheduler)

    def test_the_model_length_bounds_prompt_and_generated_tokens_together(self):
        scheduler = make_ranks(max_model_len=5)
        add(scheduler, [1, 2, 3], max_tokens=100)
        events = self.tokens(scheduler, 1, 1)
        assert [event.finish_reason for event in events] == [None, "length"]

    def test_the_pool_bounds_a_sequence_as_the_model_length_does(self):
        scheduler = make_ranks(num_blocks=3)
        add(scheduler, [1, 2, 3], max_tokens=100)
        events = self.tokens(scheduler, *[1] * 5)
        assert events[-1].finish_reason == "length"
        finish_all(scheduler)

    def test_a_stop_token_ends_with_stop_and_is_part_of_the_tokens(self):
        scheduler = make_ranks()
        add(scheduler, [1, 2], stop_token_ids=(7,))
        events = self.tokens(scheduler, 3, 7)
        assert [(event.token_ids, event.finish_reason) for event in events] == [
            ([3], None),
            ([7], "stop"),
        ]
        finish_all(scheduler)

    def test_the_models_end_token_ends_unless_it_is_ignored(self):
        for ignore_eos, reason in ((False, "stop"), (True, None)):
            scheduler = make_ranks()
            add(scheduler, [1, 2], ignore_eos=ignore_eos)
            assert self.tokens(scheduler, EOS)[0].finish_reason == reason

    def test_a_stop_token_at_the_length_limit_is_a_stop(self):
        scheduler = make_ranks()
        add(scheduler, [1, 2], max_tokens=1)
        assert self.tokens(scheduler, EOS)[0].finish_reason == "stop"

    def test_nothing_stops_before_min_tokens_were_generated(self):
        scheduler = make_ranks()
        add(scheduler, [1, 2], min_tokens=2, stop_token_ids=(7,))
        events = self.tokens(scheduler, 7, EOS, 7)
        assert [event.finish_reason for event in events] == [None, None, "stop"]

    def test_no_token_at_all_ends_when_the_prompt_has_run(self):
        scheduler = make_ranks()
        add(scheduler, range(10), max_tokens=0)
        first, nothing = run(scheduler)
        assert not nothing
        second, [(_, event)] = run(scheduler)
        assert not any(row.is_sampling for row in (*first.rows, *second.rows))
        assert (event.token_ids, event.finish_reason) == ([], "length")
        finish_all(scheduler)

    def test_a_row_that_ran_past_the_stop_token_is_void(self):
        scheduler = make_ranks()
        seq = add(scheduler, [1, 2])
        first = scheduler.schedule(0.0)
        late = scheduler.schedule(0.0)
        [(_, event)] = scheduler.postprocess(first, results(first, EOS))
        assert event.finish_reason == "stop"
        assert scheduler.postprocess(late, results(late, 5)) == []
        assert seq.token_ids == [1, 2, EOS]
        finish_all(scheduler)

    def test_slot_and_blocks_are_given_again_while_the_late_row_is_in_flight(self):
        scheduler = make_ranks(num_blocks=3, max_num_seqs=1)
        old = add(scheduler, range(6), request_id=1)
        first = scheduler.schedule(0.0)
        [table] = map(list, old.block_tables)
        late = scheduler.schedule(0.0)
        scheduler.postprocess(first, results(first, EOS))
        new = add(scheduler, range(50, 56), request_id=2, max_tokens=1)
        following = scheduler.schedule(0.0)
        assert new.slot == 0
        assert sorted(new.block_tables[0]) == sorted(table)
        assert scheduler.postprocess(late, results(late, 5)) == []
        [(seq, event)] = scheduler.postprocess(following, results(following, 6))
        assert (seq, event.token_ids) == (new, [6])
        finish_all(scheduler)

    def test_what_is_not_finite_ends_with_an_error_and_is_not_found_again(self):
        scheduler = make_ranks()
        seq = add(scheduler, range(9), request_id=1)
        run(scheduler)
        _, [(_, event)] = run(scheduler, is_finite=False)
        assert (event.finish_reason, event.error) == ("error", "internal")
        assert seq.token_ids == list(range(9)), "its token is worth nothing"
        again = add(scheduler, range(9), request_id=2)
        run(scheduler)
        assert again.num_cached_tokens == 0
        finish_all(scheduler)

    def test_logprobs_travel_with_their_token(self):
        scheduler = make_ranks()
        add(scheduler, [1, 2], num_logprobs=0)
        logprobs = logprob_of([1, 2], 1)
        _, [(_, event)] = run(scheduler, logprobs=(logprobs,))
        assert event.logprobs == [logprobs]


class TestPreemption:
    def crowd(self, **limits):
        """Two sequences in a pool where only one can grow; the step in which that shows."""
        scheduler = make_ranks(
            **({"num_blocks": 5, "max_num_seqs": 2, "max_num_batched_tokens": 16} | limits)
        )
        old = add(scheduler, [1, 2, 3], request_id=1, max_tokens=12)
        new = add(scheduler, [4, 5, 6], request_id=2, max_tokens=12)
        return scheduler, old, new

    def run_until_preempted(self, scheduler):
        batch, _ = run(scheduler)
        while not batch.num_preempted:
            batch, _ = run(scheduler)
        return batch

    def test_the_most_recently_admitted_gives_way_to_the_oldest(self):
        scheduler, old, new = self.crowd()
        batch = self.run_until_preempted(scheduler)
        assert [row.seq for row in batch.rows] == [old]
        assert (new.state, new.slot, new.block_tables) == (SequenceState.WAITING, -1, ())
        assert new.num_computed_tokens == 0
        scheduler.check_integrity()
        finish_all(scheduler)
        assert (len(old.token_ids), len(new.token_ids)) == (15, 15)

    def test_the_newest_preempts_itself_when_it_is_the_one_that_cannot_grow(self):
        scheduler = make_ranks(num_blocks=5, max_num_seqs=2)
        add(scheduler, [1, 2], request_id=1, max_tokens=12)
        new = add(scheduler, range(6), request_id=2, max_tokens=9)
        batch = self.run_until_preempted(scheduler)
        assert new.state is SequenceState.WAITING
        assert [row.seq.request_id for row in batch.rows] == [1]
        finish_all(scheduler)

    def test_the_preempted_stands_at_the_head_of_the_queue(self):
        scheduler, _, new = self.crowd()
        add(scheduler, [7], request_id=3)
        self.run_until_preempted(scheduler)
        order = []
        while scheduler.num_unfinished:
            batch, _ = run(scheduler)
            order += [row.seq for row in batch.rows if row.is_admitted]
        assert order[0] is new

    def test_nobody_overtakes_the_preempted(self):
        scheduler, _, _ = self.crowd(max_num_seqs=3)
        add(scheduler, [7], request_id=3)
        batch = self.run_until_preempted(scheduler)
        assert not any(row.is_admitted for row in batch.rows)

    def test_a_preempted_sequence_resumes_over_all_its_tokens_and_finds_what_is_still_cached(
        self,
    ):
        scheduler, _, new = self.crowd()
        self.run_until_preempted(scheduler)
        num_known = len(new.token_ids)
        while new.state is SequenceState.WAITING:
            batch, _ = run(scheduler)
        row = next(row for row in batch.rows if row.seq is new)
        assert row.is_admitted
        assert row.end == num_known
        assert new.num_cached_tokens == 0, "only the first admission counts"
        finish_all(scheduler)

    def preempt_in_flight(self):
        """The step before the preemption is still unread when `new` loses its blocks."""
        scheduler, old, new = self.crowd()
        unread = scheduler.schedule(0.0)
        while True:
            batch = scheduler.schedule(0.0)
            if batch.num_preempted:
                return scheduler, unread, batch, old, new
            scheduler.postprocess(unread, results(unread))
            unread = batch

    def test_a_token_in_flight_for_the_preempted_is_kept(self):
        scheduler, unread, _, _, new = self.preempt_in_flight()
        assert new.num_in_flight_tokens == 1
        num_known = len(new.token_ids)
        events = scheduler.postprocess(unread, results(unread, 9))
        assert [event.token_ids for seq, event in events if seq is new] == [[9]]
        assert new.token_ids[num_known:] == [9]
        assert new.num_in_flight_tokens == 0
        assert new.state is SequenceState.WAITING

    def test_a_preempted_sequence_is_not_admitted_before_its_token_in_flight_is_known(self):
        scheduler, _, _, old, new = self.preempt_in_flight()
        scheduler.finish(old, "abort")
        assert not scheduler.schedule(0.0)
        assert new.state is SequenceState.WAITING

    def test_a_preempted_sequence_ends_when_its_token_in_flight_is_a_stop_token(self):
        scheduler, unread, batch, old, new = self.preempt_in_flight()
        events = scheduler.postprocess(unread, results(unread, EOS))
        assert {seq: event.finish_reason for seq, event in events} == {old: "stop", new: "stop"}
        assert scheduler.num_unfinished == 0
        assert scheduler.postprocess(batch, results(batch)) == []
        finish_all(scheduler)

    def test_a_preempted_sequence_may_be_aborted_while_it_waits(self):
        scheduler, unread, batch, old, new = self.preempt_in_flight()
        num_known = len(new.token_ids)
        scheduler.finish(new, "abort")
        assert [seq for seq, _ in scheduler.postprocess(unread, results(unread))] == [old]
        assert [seq for seq, _ in scheduler.postprocess(batch, results(batch))] == [old]
        assert len(new.token_ids) == num_known
        finish_all(scheduler)


class TestWindows:
    """Some layers keep everything, others the last 8 tokens only, in blocks of 4."""

    def scheduler(self, num_window_blocks, **limits):
        kinds = (KVKind(None, 32), KVKind(8, 1 + num_window_blocks))
        return make_ranks(kinds=kinds, **limits)

    def num_free(self, scheduler):
        return [pool.num_free_blocks for pool in blocks_of(scheduler).pools]

    def test_a_pool_too_small_for_a_window_and_a_step_is_refused(self):
        self.scheduler(5, max_num_batched_tokens=8)
        with pytest.raises(ValueError, match=r"5 KV blocks of 4 tokens .* of 9 tokens needs 6"):
            self.scheduler(5, max_num_batched_tokens=9)
        self.scheduler(5, max_num_batched_tokens=9, max_model_len=20)

    def test_a_sequence_alone_runs_in_whole_chunks_however_long_it_is(self):
        scheduler = self.scheduler(5)
        add(scheduler, range(50))
        unread = scheduler.schedule(0.0)
        shapes = shape(unread)
        while not unread.rows[0].is_sampling:
            batch = scheduler.schedule(0.0)
            scheduler.postprocess(unread, results(unread))
            shapes += shape(batch)
            unread = batch
        assert shapes == [(0, start, 8) for start in range(0, 48, 8)] + [(0, 48, 2)]
        scheduler.postprocess(unread, results(unread))
        finish_all(scheduler)

    def test_more_sequences_fit_than_whole_ones_would(self):
        scheduler = self.scheduler(9)
        for i in range(3):
            add(scheduler, range(i, i + 23), request_id=i, max_tokens=20)
        for _ in range(20):
            batch, _ = run(scheduler)
            assert not batch.num_preempted
        assert len(batch.rows) == 3
        finish_all(scheduler)

    def test_a_prompt_longer_than_the_pool_is_no_obstacle_where_all_layers_have_windows(self):
        scheduler = make_ranks(kinds=(KVKind(8, 6),))
        add(scheduler, range(60), max_tokens=2)
        finish_all(scheduler)

    def test_a_chunk_is_cut_so_as_to_leave_others_their_blocks(self):
        """Of 6 blocks one is held by a sequence that will want another."""
        scheduler = self.scheduler(6, max_num_batched_tokens=12)
        add(scheduler, [1, 2], request_id=1)
        run(scheduler)
        add(scheduler, range(40), request_id=2)
        assert shape(scheduler.schedule(0.0)) == [(1, 2, 1), (2, 0, 11)]
        assert self.num_free(scheduler)[1] == 2
        assert shape(scheduler.schedule(0.0)) == [(1, 3, 1), (2, 11, 9)]
        assert self.num_free(scheduler)[1] == 1

    def crowd(self):
        """An old sequence has grown into the block that a new one's prompt needs next."""
        scheduler = self.scheduler(5, max_num_batched_tokens=5)
        old = add(scheduler, [1, 2, 3], request_id=1, max_tokens=9)
        run(scheduler)
        new = add(scheduler, range(40), request_id=2, max_tokens=2)
        batch, _ = run(scheduler)
        while not batch.num_preempted:
            assert [row.seq for row in batch.rows] == [old, new]
            batch, _ = run(scheduler)
        return scheduler, batch, old, new

    def test_a_prompt_that_finds_no_block_at_all_preempts_the_youngest(self):
        scheduler, batch, old, new = self.crowd()
        assert shape(batch) == [(1, 8, 1)]
        assert (new.state, new.block_tables) == (SequenceState.WAITING, ())
        finish_all(scheduler)
        assert (len(old.token_ids), len(new.token_ids)) == (12, 42)

    def test_what_it_computed_is_found_when_it_comes_back(self):
        scheduler, _, _, new = self.crowd()
        while new.state is SequenceState.WAITING:
            batch, _ = run(scheduler)
        row = next(row for row in batch.rows if row.seq is new)
        assert row.num_computed_tokens == 20
        finish_all(scheduler)

    def test_nobody_is_admitted_by_a_step_that_had_to_preempt(self):
        """Else the victim's step in flight would be taken for one that filled its new blocks."""
        scheduler = self.scheduler(11, max_num_batched_tokens=24, prefix_caching=False)
        add(scheduler, range(6), request_id=1)
        run(scheduler)
        victim = add(scheduler, range(50), request_id=2)
        run(scheduler)
        unread = scheduler.schedule(0.0)
        assert shape(unread) == [(1, 7, 1), (2, 23, 23)]
        blocks = blocks_of(scheduler)
        assert blocks.allocate(make_sequence([1]), 4, max_chunk=4), "the last block is gone"
        batch = scheduler.schedule(0.0)
        assert shape(batch) == [(1, 8, 1)]
        assert batch.num_preempted == 1
        assert self.num_free(scheduler)[1] == 7, "enough for a chunk of the victim's"
        scheduler.postprocess(unread, results(unread))
        assert victim.state is SequenceState.WAITING

    def test_a_shared_prefix_is_found_though_it_was_out_of_sight_before_it_was_read(self):
        """Whichever step computed it, the one in flight after it goes far beyond its window."""
        for shared in (12, 44):
            scheduler = self.scheduler(40, max_num_batched_tokens=32, max_model_len=128)
            add(scheduler, range(62), request_id=1, max_tokens=1)
            unread = scheduler.schedule(0.0)
            for _ in range(shared // 32 + 1):
                following = scheduler.schedule(0.0)
                scheduler.postprocess(unread, results(unread))
                unread = following
            add(scheduler, [*range(shared), *range(70, 72)], request_id=2)
            assert (2, shared, 2) in shape(scheduler.schedule(0.0))

    def test_what_is_not_finite_is_not_found_again_though_it_was_given_back(self):
        scheduler = make_ranks(kinds=(KVKind(4, 20),))
        add(scheduler, range(18), request_id=1)
        run(scheduler)
        run(scheduler)
        _, [(_, event)] = run(scheduler, is_finite=False)
        assert event.error == "internal"
        again = add(scheduler, range(9), request_id=2)
        run(scheduler)
        assert again.num_cached_tokens == 0
        finish_all(scheduler)

    def test_an_abort_frees_the_blocks_of_every_kind(self):
        scheduler = self.scheduler(8)
        seq = add(scheduler, range(30))
        run(scheduler)
        run(scheduler)
        assert all(any(table) for table in seq.block_tables)
        scheduler.finish(seq, "abort")
        assert is_all_free(blocks_of(scheduler))
        scheduler.check_integrity()

    def test_a_block_lost_of_any_kind_is_noticed(self):
        for kind in range(2):
            scheduler = self.scheduler(8)
            seq = add(scheduler, range(6))
            run(scheduler)
            seq.block_tables[kind].pop()
            with pytest.raises(IntegrityError, match="free blocks"):
                scheduler.check_integrity()


class TestPrefixCache:
    def test_a_later_request_starts_behind_the_shared_prefix(self):
        scheduler = make_ranks()
        add(scheduler, range(8), request_id=1, max_tokens=1)
        run(scheduler)
        seq = add(scheduler, [*range(8), 50, 51], request_id=2)
        batch, [(_, event)] = run(scheduler)
        assert shape(batch) == [(2, 8, 2)]
        assert seq.num_cached_tokens == event.num_cached_tokens == 8

    def test_only_the_first_event_tells_the_cached_tokens(self):
        scheduler = make_ranks()
        add(scheduler, range(8), request_id=1, max_tokens=1)
        run(scheduler)
        add(scheduler, range(9), request_id=2)
        events = [event for _ in range(2) for _, event in run(scheduler)[1]]
        assert [event.num_cached_tokens for event in events] == [8, 0]

    def test_blocks_in_flight_are_not_found(self):
        scheduler = make_ranks(max_num_batched_tokens=32)
        add(scheduler, range(9), request_id=1)
        unread = scheduler.schedule(0.0)
        add(scheduler, range(9), request_id=2)
        assert shape(scheduler.schedule(0.0)) == [(1, 9, 1), (2, 0, 9)]
        scheduler.postprocess(unread, results(unread))
        add(scheduler, range(9), request_id=3)
        assert (3, 8, 1) in shape(scheduler.schedule(0.0))

    def test_generated_tokens_are_found_once_they_are_known(self):
        scheduler = make_ranks()
        add(scheduler, [1, 2, 3], request_id=1, max_tokens=6)
        for _ in range(6):
            run(scheduler, 5)
        seq = add(scheduler, [1, 2, 3, 5, 5, 5, 5, 5, 5], request_id=2)
        run(scheduler)
        assert seq.num_cached_tokens == 8

    def test_a_chunk_of_an_aborted_sequence_is_not_found(self):
        scheduler = make_ranks()
        seq = add(scheduler, range(9), request_id=1)
        unread = scheduler.schedule(0.0)
        scheduler.finish(seq, "abort")
        scheduler.postprocess(unread, results(unread))
        again = add(scheduler, range(9), request_id=2)
        run(scheduler)
        assert again.num_cached_tokens == 0


class TestChoices:
    def test_choices_wait_for_the_first_to_compute_the_prompt_and_find_it(self):
        scheduler = make_ranks()
        add(scheduler, range(10), n=3)
        assert shape(run(scheduler)[0]) == [(0, 0, 8)]
        assert shape(run(scheduler)[0]) == [(0, 8, 2)]
        assert shape(run(scheduler)[0]) == [(0, 10, 1), (0, 8, 2), (0, 8, 2)]
        finish_all(scheduler)

    def test_choices_that_wait_hold_up_no_other_request(self):
        scheduler = make_ranks(max_num_batched_tokens=16)
        add(scheduler, range(10), n=3, request_id=1)
        add(scheduler, [1, 2], request_id=2)
        assert shape(run(scheduler)[0]) == [(1, 0, 10), (2, 0, 2)]

    def test_choices_go_on_when_the_first_is_aborted(self):
        scheduler = make_ranks()
        leader, *_ = add(scheduler, range(10), n=3)
        run(scheduler)
        scheduler.finish(leader, "abort")
        assert shape(run(scheduler)[0]) == [(0, 8, 2), (0, 8, 2)]
        finish_all(scheduler)

    def test_choices_wait_on_when_the_first_is_preempted_and_follow_it_again(self):
        scheduler = make_ranks(num_blocks=7, max_num_seqs=4)
        add(scheduler, [50, 51, 52], request_id=1, max_tokens=20)
        run(scheduler)
        leader, *others = add(scheduler, range(11), n=2, request_id=2, max_tokens=2)
        while leader.state is SequenceState.WAITING:
            run(scheduler)
        preempt(scheduler, leader)
        run(scheduler)
        assert all(seq.state is SequenceState.WAITING for seq in others)
        finish_all(scheduler)
        assert [len(seq.token_ids) for seq in (leader, *others)] == [13, 13]

    @pytest.mark.parametrize(
        ("limits", "prompt"), [({"prefix_caching": False}, range(6)), ({}, range(4))]
    )
    def test_choices_do_not_wait_when_there_would_be_nothing_to_find(self, limits, prompt):
        scheduler = make_ranks(max_num_batched_tokens=32, **limits)
        add(scheduler, prompt, n=3)
        assert len(run(scheduler)[0].rows) == 3


class TestPromptLogprobs:
    prompt = tuple(range(10))

    def run(self, scheduler):
        """A step whose rows answer as a device asked for prompt logprobs does."""
        batch = scheduler.schedule(0.0)
        rows = tuple(
            RowResult(
                (1,) if row.is_sampling else (),
                prompt_logprobs=[
                    logprob_of(self.prompt[: position + 1], self.prompt[position + 1])
                    for position in range(row.num_computed_tokens, row.end)
                    if position + 1 < row.seq.num_prompt_tokens
                ],
            )
            for row in batch.rows
        )
        return batch, scheduler.postprocess(batch, StepResult(rows))

    @property
    def expected(self):
        return [
            None,
            *(logprob_of(self.prompt[:end], self.prompt[end]) for end in range(1, 10)),
        ]

    def test_prompt_logprobs_come_whole_with_the_first_event_whatever_the_chunks(self):
        scheduler = make_ranks()
        add(scheduler, self.prompt, num_prompt_logprobs=0, max_tokens=2)
        events = [event for _ in range(3) for _, event in self.run(scheduler)[1]]
        assert [event.prompt_logprobs for event in events] == [self.expected, None]

    def test_prompt_logprobs_are_not_asked_from_the_prefix_cache(self):
        scheduler = make_ranks()
        add(scheduler, self.prompt, request_id=1, max_tokens=1)
        while scheduler.num_unfinished:
            self.run(scheduler)
        add(scheduler, self.prompt, request_id=2, num_prompt_logprobs=0)
        assert shape(scheduler.schedule(0.0)) == [(2, 0, 8)]

    def test_prompt_logprobs_are_computed_once_for_all_choices(self):
        scheduler = make_ranks()
        add(scheduler, self.prompt, n=3, num_prompt_logprobs=0, max_tokens=1)
        events = [event for _ in range(2) for _, event in self.run(scheduler)[1]]
        batch, more = self.run(scheduler)
        assert shape(batch) == [(0, 8, 2), (0, 8, 2)]
        assert [event.prompt_logprobs for event in [*events, *(e for _, e in more)]] == [
            self.expected
        ] * 3

    def test_prompt_logprobs_are_not_doubled_by_a_preemption(self):
        scheduler = make_ranks()
        seq = add(scheduler, self.prompt, num_prompt_logprobs=0, max_tokens=1)
        self.run(scheduler)
        preempt(scheduler, seq)
        batch, _ = self.run(scheduler)
        assert shape(batch) == [(0, 0, 8)], "what is not all known is computed again"
        _, [(_, event)] = self.run(scheduler)
        assert event.prompt_logprobs == self.expected

    def test_prompt_logprobs_come_without_tokens_where_none_is_asked_for(self):
        scheduler = make_ranks()
        add(scheduler, self.prompt, num_prompt_logprobs=0, max_tokens=0)
        self.run(scheduler)
        _, [(_, event)] = self.run(scheduler)
        assert (event.token_ids, event.prompt_logprobs) == ([], self.expected)


class TestAdmission:
    def refusal(self, scheduler, prompt, **kwargs):
        with pytest.raises(AdmissionError) as caught:
            add(scheduler, prompt, **kwargs)
        return caught.value.kind, caught.value.message

    def test_a_full_queue_is_an_answer(self):
        scheduler = make_ranks(max_queue_len=2)
        add(scheduler, [1], request_id=1)
        assert not scheduler.load().is_queue_full
        add(scheduler, [1], request_id=2)
        assert scheduler.load().is_queue_full
        kind, message = self.refusal(scheduler, [1], request_id=3)
        assert kind == "queue_full"
        assert "2 requests wait" in message
        run(scheduler)
        add(scheduler, [1], request_id=3)

    def test_the_queue_counts_requests_not_choices(self):
        scheduler = make_ranks(max_queue_len=2)
        add(scheduler, [1], request_id=1, n=5)
        assert scheduler.load().num_requests_waiting == 1
        add(scheduler, [1], request_id=2)
        assert scheduler.load().is_queue_full

    def test_a_prompt_that_never_fits_the_pool_is_refused_with_the_numbers(self):
        scheduler = make_ranks(num_blocks=4)
        add(scheduler, range(11))
        kind, message = self.refusal(scheduler, range(12))
        assert kind == "invalid_request"
        assert "12 tokens needs 4 KV blocks of 4 tokens, but there are 3" in message

    def test_a_prompt_as_long_as_the_model_allows_leaves_no_room(self):
        scheduler = make_ranks(max_model_len=10)
        add(scheduler, range(9))
        assert self.refusal(scheduler, range(10))[0] == "invalid_request"
        add(scheduler, range(10), max_tokens=0)

    def test_a_sequence_never_holds_more_blocks_than_its_longest_end_needs(self):
        scheduler = make_ranks(max_model_len=8, num_blocks=3)
        seq = add(scheduler, range(8), max_tokens=0)
        run(scheduler)
        assert seq.outcome == "length"
        seq = add(scheduler, range(7), request_id=1)
        scheduler.schedule(0.0)
        assert len(seq.block_tables[0]) == 2

    def test_an_empty_prompt_is_refused(self):
        assert self.refusal(make_ranks(), [])[0] == "invalid_request"

    def test_a_deadline_already_passed_is_refused(self):
        scheduler = make_ranks()
        assert self.refusal(scheduler, [1], deadline=5.0, now=5.0)[0] == "deadline_exceeded"
        add(scheduler, [1], deadline=5.0, now=4.9)

    def test_a_refused_request_leaves_no_trace(self):
        scheduler = make_ranks(max_queue_len=1)
        add(scheduler, [1])
        self.refusal(scheduler, [2], n=3, request_id=1)
        assert scheduler.num_unfinished == 1


class TestEndingEarly:
    @pytest.mark.parametrize("num_steps", range(5))
    def test_an_abort_frees_blocks_and_slot_at_once_in_every_state(self, num_steps):
        """Waiting, prefilling, decoding; always with the last step still in flight."""
        scheduler = make_ranks()
        seq = add(scheduler, range(12))
        unread = None
        for _ in range(num_steps):
            batch = scheduler.schedule(0.0)
            if unread:
                scheduler.postprocess(unread, results(unread))
            unread = batch
        scheduler.finish(seq, "abort")
        assert is_all_free(blocks_of(scheduler))
        assert (scheduler.num_unfinished, seq.outcome) == (0, "abort")
        if unread:
            assert scheduler.postprocess(unread, results(unread)) == []
        scheduler.check_integrity()

    def test_a_passed_deadline_ends_who_waits_and_who_runs(self):
        scheduler = make_ranks(max_num_seqs=1)
        running = add(scheduler, [1], request_id=1, deadline=5.0)
        waiting = add(scheduler, [1], request_id=2, deadline=5.0)
        later = add(scheduler, [1], request_id=3, deadline=6.0)
        add(scheduler, [1], request_id=4)
        run(scheduler)
        assert scheduler.expire(4.9) == []
        ended = scheduler.expire(5.0)
        assert [seq for seq, _ in ended] == [running, waiting]
        assert {(event.finish_reason, event.error) for _, event in ended} == {
            ("error", "deadline_exceeded")
        }
        batch, _ = run(scheduler)
        assert [row.seq for row in batch.rows] == [later]

    def test_every_choice_past_its_deadline_is_ended(self):
        scheduler = make_ranks()
        add(scheduler, range(10), n=3, deadline=1.0)
        run(scheduler)
        assert [event.index for _, event in scheduler.expire(1.0)] == [0, 1, 2]
        finish_all(scheduler)


class TestIntegrity:
    def test_a_lost_slot_is_noticed(self):
        scheduler = make_ranks()
        seq = add(scheduler, [1])
        run(scheduler)
        seq.slot = 3
        with pytest.raises(IntegrityError, match="slots"):
            scheduler.check_integrity()

    def test_a_lost_block_is_noticed(self):
        scheduler = make_ranks()
        seq = add(scheduler, range(6))
        run(scheduler)
        seq.block_tables[0].pop()
        with pytest.raises(IntegrityError, match="free blocks"):
            scheduler.check_integrity()

    def test_a_waiting_sequence_holds_nothing(self):
        scheduler = make_ranks()
        seq = make_sequence([1])
        scheduler.add([seq], 0.0)
        seq.block_tables = (block_table([1]),)
        with pytest.raises(IntegrityError, match="waiting"):
            scheduler.check_integrity()


class TestVersions:
    """Sequences of several versions: one a step, each its own from the first token to the last."""

    ONE, TWO = LoadedVersion("1", 1), LoadedVersion("2", 2)

    @pytest.fixture
    def scheduler(self):
        scheduler = make_ranks(block_size=4)
        serve(scheduler, self.ONE)
        return scheduler

    def test_a_sequence_gets_the_version_that_is_served_when_it_begins(self, scheduler):
        seq = add(scheduler, [1, 2])
        serve(scheduler, self.TWO)
        batch, _ = run(scheduler)
        assert (seq.version, batch.version) == (self.TWO, self.TWO)

    def test_a_sequence_keeps_its_version_when_another_is_served(self, scheduler):
        seq = add(scheduler, [1, 2])
        run(scheduler)
        serve(scheduler, self.TWO)
        batch, _ = run(scheduler)
        assert (seq.version, batch.version) == (self.ONE, self.ONE)

    def test_a_preempted_sequence_keeps_its_version_when_another_is_served(self, scheduler):
        seq = add(scheduler, [1, 2])
        run(scheduler)
        preempt(scheduler, seq)
        serve(scheduler, self.TWO)
        run(scheduler)
        assert seq.version == self.ONE

    def test_versions_take_turns(self, scheduler):
        add(scheduler, [1, 2], request_id=1)
        add(scheduler, [3, 4], request_id=2, version=self.TWO)
        assert [run(scheduler)[0].version.name for _ in range(4)] == ["1", "2", "1", "2"]

    def test_while_nothing_is_served_only_named_versions_run(self, scheduler):
        waiting = add(scheduler, [1, 2], request_id=1)
        named = add(scheduler, [3, 4], request_id=2, version=self.TWO)
        serve(scheduler, None)
        run(scheduler)
        assert waiting.state is SequenceState.WAITING
        assert named.state is SequenceState.RUNNING
        serve(scheduler, self.ONE)
        run(scheduler)
        assert waiting.version == self.ONE

    def test_all_choices_of_a_request_follow_the_first(self, scheduler):
        seqs = add(scheduler, [1, 2, 3, 4, 5], n=6)
        run(scheduler)
        serve(scheduler, self.TWO)
        for _ in range(20):
            run(scheduler)
        assert {seq.version for seq in seqs} == {self.ONE}

    def test_nobody_overtakes_who_waits_for_blocks_whatever_the_version(self):
        scheduler = make_ranks(num_blocks=5, block_size=4, max_num_batched_tokens=16)
        serve(scheduler, self.ONE)
        add(scheduler, range(8), request_id=1, max_tokens=6)
        run(scheduler)
        large = add(scheduler, range(10), request_id=2)
        small = add(scheduler, [1], request_id=3, version=self.TWO)
        run(scheduler)
        run(scheduler)
        assert (large.state, small.state) == (SequenceState.WAITING, SequenceState.WAITING)

    def test_an_engine_s_own_request_goes_first_even_into_a_full_queue(self):
        scheduler = make_ranks(max_queue_len=1, max_num_seqs=1)
        add(scheduler, [1], request_id=1)
        own = make_sequence([2], request_id=2)
        scheduler.add([own], 0.0, first=True)
        run(scheduler)
        assert own.state is SequenceState.RUNNING

    def test_withdrawn_requests_begin_again_unless_they_have_a_token(self, scheduler):
        begun = add(scheduler, [1, 2], request_id=1)
        run(scheduler)
        new = add(scheduler, [3, 4], request_id=2)
        batch = scheduler.schedule(0.0)
        serve(scheduler, self.TWO)
        scheduler.withdraw(self.ONE)
        events = scheduler.postprocess(batch, results(batch))
        assert [seq for seq, _ in events] == [begun]
        assert (new.version, new.num_in_flight_tokens, new.num_own_tokens) == (None, 0, 0)
        run(scheduler)
        assert (begun.version, new.version) == (self.ONE, self.TWO)
        scheduler.check_integrity()

    def test_withdrawn_means_every_choice_or_none(self, scheduler):
        seqs = add(scheduler, [1, 2], n=6)
        run(scheduler)
        serve(scheduler, self.TWO)
        scheduler.withdraw(self.ONE)
        assert {seq.version for seq in seqs} == {self.ONE}

    def test_a_request_that_names_its_version_is_not_withdrawn(self, scheduler):
        named = add(scheduler, [1, 2], version=self.ONE)
        scheduler.withdraw(self.ONE)
        assert named.version == self.ONE

    def test_the_first_event_says_the_version(self, scheduler):
        add(scheduler, [1, 2])
        named = [run(scheduler)[1][0][1].version for _ in range(3)]
        assert named == ["1", "", ""]
