"""Any interleaving of requests, steps, aborts, deadlines and faults, on a device that would notice.

The fake device looks at every row's context in its block pools, of each kind of layers as far back
as those look, so a block that is shared, given back or indexed at the wrong moment fails the step
that reads it, whichever operation it was that did it.
"""

from __future__ import annotations

from itertools import product

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from server.engine.policy.admission import AdmissionError
from server.engine.policy.blocks.layer_kinds import KVKind
from server.engine.policy.data_ranks import Ranks
from server.engine.policy.sequences.sequence import LoadedVersion, Sequence, SequenceState
from server.engine.policy.served_versions import ServedVersions
from server.engine.policy.speculation import DraftRoom, Speculation
from server.link.sampling import SamplingParams
from tests.engine.builders import is_all_free, make_choices, make_scheduler
from tests.engine.fakes import (
    VOCAB_SIZE,
    Clairvoyant,
    FakeRankedRunner,
    FakeRunner,
    expected_prompt_logprobs,
    expected_tokens,
)

# 150; with --unit, which runs all the time, 37.
EXAMPLES = settings.default.max_examples * 3 // 2
tokens = st.integers(0, VOCAB_SIZE - 1)
# Few distinct prompts, so that prefixes are shared; some longer than the pool.
prompts = st.builds(
    lambda token, length, tail: [token] * length + tail,
    st.integers(1, 2),
    st.one_of(st.integers(0, 14), st.integers(0, 30)),
    st.lists(tokens, min_size=1, max_size=3),
)
params = st.builds(
    SamplingParams,
    max_tokens=st.sampled_from([20, 12, 6, 1, 0]),
    min_tokens=st.integers(0, 2),
    stop_token_ids=st.sampled_from([(), (), (3,)]),
    ignore_eos=st.sampled_from([True, True, False]),
    seed=st.integers(0, 3),
    num_logprobs=st.sampled_from([-1, 0]),
    num_prompt_logprobs=st.sampled_from([-1, -1, 0]),
)


bursts = st.lists(
    st.fixed_dictionaries(
        {
            "prompt": prompts,
            "params": params,
            "n": st.sampled_from([1, 1, 2, 3]),
            "patience": st.sampled_from([None, None, None, 0, 9]),
            "is_poisoned": st.sampled_from([False] * 6 + [True]),
        }
    ),
    min_size=2,
    max_size=5,
)


def make_kinds(windows, num_blocks, num_more, block_size, max_chunk, max_model_len):
    """Pools as small as they may be; those of windows by `num_more` blocks larger."""
    longest = max_model_len if None not in windows else (num_blocks - 1) * block_size
    longest = min(longest, max_model_len)

    def size(window):
        if window is None:
            return num_blocks
        needed = KVKind(window, 0).blocks_for_one(max_chunk, longest, block_size)
        return 1 + needed + num_more

    return tuple(KVKind(window, size(window)) for window in windows)


limits = {
    "block_size": st.sampled_from([4, 2, 3, 1]),
    "max_num_seqs": st.sampled_from([4, 3, 2, 1]),
    "extra_budget": st.integers(0, 8),
    "max_queue_len": st.sampled_from([9, 2]),
    "max_model_len": st.sampled_from([40, 20, 5]),
    "prefix_caching": st.sampled_from([True, True, False]),
    "overlap": st.sampled_from([True, True, False]),
    "is_speculating": st.booleans(),
    # Of each kind of layers: none, fewer than a sequence has, more than all.
    "num_host_blocks": st.sampled_from([0, 3, 40]),
    "burst": bursts,
}


class SchedulerMachine(RuleBasedStateMachine):
    num_ranks = 1

    def create(
        self,
        windows,
        num_more,
        num_blocks,
        extra_budget,
        overlap,
        is_speculating,
        num_host_blocks,
        burst,
        **limits,
    ):
        limits["max_num_batched_tokens"] = limits["max_num_seqs"] + extra_budget
        limits["kinds"] = make_kinds(
            windows,
            num_blocks,
            num_more,
            limits["block_size"],
            limits["max_num_batched_tokens"],
            limits["max_model_len"],
        )
        if num_host_blocks and self.num_ranks == 1:
            limits["num_host_blocks"] = (num_host_blocks,) * len(windows)
        self.limits = limits
        self.overlap = overlap
        versions = ServedVersions(LoadedVersion())
        self.is_speculating = is_speculating and self.num_ranks == 1
        self.ranks = [
            make_scheduler(versions=versions, speculation=self.make_speculation(), **limits)
            for _ in range(self.num_ranks)
        ]
        self.scheduler = Ranks(self.ranks)
        self.runner = FakeRankedRunner(
            [
                FakeRunner(
                    limits["kinds"],
                    limits["block_size"],
                    limits["max_num_seqs"],
                    limits["max_num_batched_tokens"],
                )
                for _ in self.ranks
            ]
        )
        self.unread = None
        self.now = 0.0
        self.seqs: list[Sequence] = []
        self.events: dict[Sequence, list] = {}
        self.num_requests = 0
        self.arrive(burst)

    def make_speculation(self):
        """Speculation that has measured that drafts cost no time."""
        if not self.is_speculating:
            return None
        num_seqs = self.limits["max_num_seqs"]
        room = DraftRoom(num_seqs, self.limits["max_num_batched_tokens"])
        speculation = Speculation([room], 3)
        for num_rows, has_drafts in product(range(1, num_seqs + 1), (False, True)):
            speculation.note_step(num_rows, 1.0, has_drafts=has_drafts)
        return speculation

    @rule(burst=bursts)
    def arrive(self, burst):
        for request in burst:
            self.submit(**request)

    def submit(self, prompt, params, n, patience, is_poisoned):
        request_id, self.num_requests = self.num_requests, self.num_requests + 1
        deadline = None if patience is None else self.now + patience
        seqs = make_choices(prompt, n, request_id=request_id, deadline=deadline, params=params)
        for seq in seqs if self.is_speculating else ():
            seq.drafter = Clairvoyant(seq)
        load = self.scheduler.load()
        num_unfinished = self.scheduler.num_unfinished
        try:
            self.scheduler.add(seqs, self.now)
        except AdmissionError:
            assert self.scheduler.num_unfinished == num_unfinished
            return
        # Where all who wait were preempted, a full queue still has room for a source of which
        # nobody waits.
        most = 2 * self.limits["max_queue_len"] * self.num_ranks
        assert not load.is_queue_full or load.num_requests_waiting < most
        if is_poisoned:
            self.runner.poison(request_id)
        self.seqs += seqs
        self.events.update({seq: [] for seq in seqs})

    @rule(num_steps=st.integers(1, 5))
    def run(self, num_steps):
        for _ in range(num_steps):
            self.step()

    def step(self):
        """Once round the loop, as the engine does it."""
        if self.unread and self.scheduler.wants_tokens_of(self.unread[0]):
            self.read()
        batch = self.scheduler.schedule(self.now)
        for rank in range(self.num_ranks):
            self.check_fairness(rank, batch)
        following = (batch, self.runner.execute(batch)) if batch else None
        self.read()
        self.unread = following
        if not self.overlap:
            self.read()

    @rule()
    def read(self):
        """The loop may read a step without dispatching another."""
        if self.unread:
            batch, in_flight = self.unread
            self.unread = None
            self.record(self.scheduler.postprocess(batch, self.runner.read(in_flight)))

    @precondition(lambda self: self.unfinished())
    @rule(data=st.data(), is_meant=st.sampled_from([False, False, True]))
    def abort(self, data, is_meant):
        if not is_meant:
            return
        seq = data.draw(st.sampled_from(self.unfinished()))
        pools = self.ranks[seq.rank].block_manager.pools
        held, free = list(map(set, seq.block_tables)), [pool.num_free_blocks for pool in pools]
        self.scheduler.finish(seq, data.draw(st.sampled_from(["abort", "stop"])))
        assert seq.block_tables == ()
        holders = [o for o in self.seqs if o.block_tables and o.rank == seq.rank]
        for i in range(len(held)):
            shared = {block for other in holders for block in other.block_tables[i]}
            assert pools[i].num_free_blocks == free[i] + len(held[i] - shared - {0})

    @rule(seconds=st.integers(1, 4))
    def pass_time(self, seconds):
        self.now += seconds
        self.record(self.scheduler.expire(self.now))
        assert all(seq.deadline is None or seq.deadline > self.now for seq in self.unfinished())

    @invariant()
    def is_sound(self):
        if not hasattr(self, "scheduler"):
            return
        self.scheduler.check_integrity()
        size, chunk = self.limits["block_size"], self.limits["max_num_batched_tokens"]
        for seq in self.seqs:
            for kind, table in zip(self.limits["kinds"], seq.block_tables, strict=False):
                assert len(table) <= -(-seq.max_num_tokens // size)
                # Beside the window, the chunk in flight and the one after it.
                most = kind.blocks_for_one(2 * chunk, seq.max_num_tokens, size)
                assert sum(block > 0 for block in table) <= most

    def teardown(self):
        if not hasattr(self, "scheduler"):
            return
        # Every step reads a token or computes a chunk; preemption alone can undo work, and the
        # oldest sequence is never its victim while another runs.
        for _ in range(2000):
            if not self.unfinished() and not self.unread:
                break
            self.step()
        assert not self.unfinished(), "the scheduler came to a standstill"
        self.scheduler.check_integrity()
        assert all(is_all_free(rank.block_manager) for rank in self.ranks)
        assert self.scheduler.num_unfinished == 0
        for seq in self.seqs:
            self.check_stream(seq)

    def unfinished(self):
        return [seq for seq in self.seqs if seq.state is not SequenceState.FINISHED]

    def record(self, events):
        for seq, event in events:
            assert (event.request_id, event.index) == (seq.request_id, seq.index)
            assert not any(earlier.finish_reason for earlier in self.events[seq]), "after the end"
            self.events[seq].append(event)

    def check_fairness(self, rank, batch):
        """Every sequence that can run does, unless it was preempted; spare budget is used.

        All but what was set aside for decodes that were preempted then. A prompt cannot go on
        without a block, if what it might have had was set aside for one that waits.
        """
        rows = batch.of_rank(rank)
        scheduled = {row.seq for row in rows}
        running = [
            seq for seq in self.seqs if seq.state is SequenceState.RUNNING and seq.rank == rank
        ]
        could_run = [seq for seq in running if seq not in scheduled and seq.num_uncomputed_tokens]
        num_tokens = sum(row.num_scheduled_tokens for row in rows)
        spare = self.limits["max_num_batched_tokens"] - num_tokens
        assert not any(seq.is_decoding for seq in could_run)
        assert spare <= batch.num_preempted or not any(map(self.has_room, could_run))
        waiting = [seq for seq in self.unfinished() if seq not in running and not seq.is_deferred]
        # With several ranks, who waits may have been given to this one after it was scheduled.
        if self.num_ranks == 1 and waiting and spare and not running and not batch.num_preempted:
            assert any(seq.num_in_flight_tokens for seq in waiting), "an empty pool admits anybody"

    def has_room(self, seq):
        """Whether there are blocks for the next token of a sequence that runs."""
        pools = self.ranks[seq.rank].block_manager.pools
        num_blocks = seq.num_computed_tokens // self.limits["block_size"] + 1
        return all(
            len(table) >= num_blocks or pool.num_free_blocks
            for pool, table in zip(pools, seq.block_tables, strict=True)
        )

    def check_stream(self, seq):
        events = self.events[seq]
        generated = [token for event in events for token in event.token_ids]
        expected = expected_tokens(
            seq.token_ids[: seq.num_prompt_tokens],
            seq.params,
            index=seq.index,
            max_num_tokens=seq.max_num_tokens,
        )
        assert seq.token_ids[seq.num_prompt_tokens :] == generated
        terminal = [event for event in events if event.finish_reason]
        if not terminal:
            assert seq.outcome in ("abort", "stop"), "ended from outside"
            assert generated == expected[: len(generated)]
        elif terminal[0].error is None:
            assert generated == expected
            is_stop = bool(generated) and generated[-1] in seq.stop_token_ids
            assert seq.finish_reason == "length" or is_stop
        else:
            is_poisoned = seq.request_id in self.runner.poisoned_request_ids
            assert seq.error == "deadline_exceeded" or (seq.error == "internal" and is_poisoned)
            assert generated == expected[: len(generated)]
        self.check_logprobs(seq, events, generated)

    def check_logprobs(self, seq, events, generated):
        given = [entry for event in events for entry in event.logprobs or []]
        assert len(given) == (len(generated) if seq.params.num_logprobs >= 0 else 0)
        told = [event.prompt_logprobs for event in events if event.prompt_logprobs is not None]
        wants = seq.params.num_prompt_logprobs >= 0 and any(e.error is None for e in events)
        prompt = seq.token_ids[: seq.num_prompt_tokens]
        assert told == ([expected_prompt_logprobs(prompt)] if wants else [])


class WholeMachine(SchedulerMachine):
    """Layers that keep whole sequences, in a pool that few of those fit."""

    @initialize(num_blocks=st.integers(5, 10), **limits)
    def begin(self, **drawn):
        self.create(windows=(None,), num_more=0, **drawn)


class WindowedMachine(SchedulerMachine):
    """Pools of windowed layers hardly larger than one sequence needs, beside one of the others."""

    @initialize(
        windows=st.sampled_from([(None, 3), (None, 7), (None, 1), (4,), (None, 5, 2)]),
        num_more=st.integers(0, 3),
        num_blocks=st.integers(6, 30),
        **limits,
    )
    def begin(self, **drawn):
        self.create(**drawn)


class RankedMachine(WholeMachine):
    """Three data ranks, with few slots and blocks each: requests wait, move and stay."""

    num_ranks = 3

    @invariant()
    def stays_where_it_ran(self):
        for seq in getattr(self, "seqs", ()):
            if seq.first_scheduled_time is not None:
                assert self.ran_on.setdefault(seq, seq.rank) == seq.rank

    @initialize(num_blocks=st.integers(5, 10), **limits)
    def begin(self, **drawn):
        self.ran_on = {}
        self.create(windows=(None,), num_more=0, **drawn)


TestRankedMachine = RankedMachine.TestCase
TestRankedMachine.settings = settings(max_examples=EXAMPLES, stateful_step_count=40)
TestWholeMachine = WholeMachine.TestCase
TestWholeMachine.settings = settings(max_examples=EXAMPLES, stateful_step_count=40)
TestWindowedMachine = WindowedMachine.TestCase
TestWindowedMachine.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=40, deadline=None
)
