from __future__ import annotations

import threading
from collections import defaultdict
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.engine import Engine
from server.engine.policy.blocks.block_pool import IntegrityError
from server.engine.policy.blocks.layer_kinds import KVKind
from server.engine.policy.speculation import DraftRoom, Speculation
from server.link import frames as link
from server.link.sampling import SamplingParams
from tests.engine.builders import make_ranks
from tests.engine.fakes import (
    EOS,
    VOCAB_SIZE,
    Clairvoyant,
    FakeObserver,
    FakeRunner,
    expected_tokens,
)


class Bench:
    """An engine on a fake device with a clock set by hand, and all the frames it sent."""

    def __init__(self, *, overlap=True, clock=None, num_blocks=32, speculation=None, **limits):
        limits = {"kinds": (KVKind(None, num_blocks),), "block_size": 4} | limits
        self.now = 0.0
        self.observer = FakeObserver()
        self.ranks = make_ranks(**limits, speculation=speculation)
        self.runner = FakeRunner(
            limits["kinds"],
            limits["block_size"],
            limits.get("max_num_seqs", 4),
            limits.get("max_num_batched_tokens", 8),
        )
        self.frames: list[tuple[int, link.Step]] = []
        self.engine = Engine(
            self.ranks,
            self.runner,
            self.observer,
            lambda client, frame: self.frames.append((client, frame)),
            eos_token_ids=(EOS,),
            overlap=overlap,
            clock=clock or (lambda: self.now),
        )
        self.dispatched = None

    def submit(
        self,
        request_id,
        prompt,
        *,
        client=1,
        n=1,
        received=(),
        deadline=None,
        source="",
        pooling=None,
        **params,
    ):
        """Submit; returns what every choice must have in the end, what was received included."""
        params = SamplingParams(**({"max_tokens": 8, "ignore_eos": True} | params))
        self.engine.receive(
            client,
            link.Submit(
                request_id=request_id,
                prompt_token_ids=list(prompt),
                params=params,
                n=n,
                received=list(received),
                arrival=self.now,
                deadline=deadline,
                source=source,
                pooling=pooling,
            ),
        )
        return [expected_tokens(list(prompt), params, index=index) for index in range(n)]

    def abort(self, request_id, index=None, reason="abort", client=1):
        abort = link.Abort(request_id=request_id, index=index, reason=reason)
        self.engine.receive(client, abort)

    def step(self, num_steps=1):
        for _ in range(num_steps):
            self.dispatched = self.engine.step(self.dispatched)

    def events(self, client=1):
        """By (request, choice), in the order they were sent."""
        events = defaultdict(list)
        for receiver, frame in self.frames:
            if receiver == client:
                for event in frame.events:
                    events[event.request_id, event.index].append(event)
        return events

    def tokens(self, request_id, index=0, client=1):
        events = self.events(client)[request_id, index]
        return [token for event in events for token in event.token_ids]

    def ends(self, request_id, n=1, client=1):
        """How each choice ended, having checked that it did so once and last."""
        ends = []
        for index in range(n):
            *rest, last = self.events(client)[request_id, index]
            assert not any(event.finish_reason for event in rest)
            ends.append(last.error or last.finish_reason)
        return ends

    @property
    def num_held_blocks(self):
        load = self.engine.load()
        return load.num_usable_blocks - load.num_free_blocks

    def drain(self):
        """Run until empty, and see that nothing is left behind."""
        self.engine.drain()
        while self.dispatched or self.ranks.num_unfinished:
            self.step()
        self.engine.run()
        self.ranks.check_integrity()
        assert self.num_held_blocks == 0


class TestDrafts:
    """On a device that knows no cost: a step takes as long as the clock says."""

    def bench(self, **options):
        speculation = Speculation([DraftRoom(4, 8)], 3)
        for num_rows, has_drafts in product((1, 2, 4), (False, True)):
            speculation.note_step(num_rows, 1.0, has_drafts=has_drafts)
        return Bench(speculation=speculation, **options)

    def run(self, bench, **params):
        """Two requests of which the first has drafts: what both must get."""
        expected = [*bench.submit(1, [1, 2], **params), *bench.submit(2, [3, 4, 5], **params)]
        bench.step()
        (seq,) = bench.engine._requests._requests[1, 1]
        seq.drafter = Clairvoyant(seq)
        bench.drain()
        return expected

    @pytest.mark.parametrize("overlap", [True, False])
    def test_streams_are_those_of_no_drafts_in_fewer_steps(self, overlap):
        plain, bench = Bench(overlap=overlap), self.bench(overlap=overlap)
        for each in (plain, bench):
            expected = self.run(each, max_tokens=20)
            assert [each.tokens(1), each.tokens(2)] == expected
        assert sum(event.token_ids != [] for event in bench.events()[1, 0]) < 20
        assert len(bench.runner.batches) <= len(plain.runner.batches)

    def test_a_step_with_drafts_is_read_before_the_next_one(self):
        bench = self.bench()
        self.run(bench, max_tokens=20)
        drafting = [i for i, step in enumerate(bench.observer.steps, start=1) if step.drafts]
        log = bench.runner.log
        assert drafting
        assert all(log.index(f"read {i}") == log.index(f"execute {i}") + 1 for i in drafting)

    def test_other_steps_overlap_as_ever(self):
        bench = self.bench()
        bench.submit(2, [3, 4, 5], max_tokens=6)
        bench.drain()
        log = bench.runner.log
        assert log[:4] == ["execute 1", "execute 2", "read 1", "execute 3"]

    def test_tokens_that_come_together_have_no_time_between_them(self):
        bench = self.bench()
        self.run(bench, max_tokens=20)
        steps = bench.observer.steps
        num_tokens = sum(step.num_generated_tokens for step in steps)
        assert sum(len(step.inter_token_seconds) for step in steps) == num_tokens - 2

    def test_drafts_and_those_that_came_true_are_counted(self):
        bench = self.bench()
        self.run(bench, max_tokens=20)
        drafts = [pair for step in bench.observer.steps for pair in step.drafts]
        num_together = sum(len(event.token_ids) - 1 for event in bench.events()[1, 0])
        assert sum(accepted for _, accepted in drafts) >= num_together > 0
        assert all(accepted <= drafted <= 3 for drafted, accepted in drafts)


class TestLoop:
    def test_the_next_step_is_dispatched_before_the_last_is_read(self):
        bench = Bench()
        bench.submit(1, [1, 2], max_tokens=3)
        bench.drain()
        assert bench.runner.log == [
            *("execute 1", "execute 2", "read 1"),
            *("execute 3", "read 2", "read 3"),
        ]

    def test_the_plain_loop_reads_each_step_first(self):
        bench = Bench(overlap=False)
        bench.submit(1, [1, 2], max_tokens=2)
        bench.drain()
        assert bench.runner.log == ["execute 1", "read 1", "execute 2", "read 2"]

    def test_a_stop_token_is_found_one_step_late_and_the_token_after_it_dropped(self):
        prompt = [1, 2]
        overlapped, plain = Bench(), Bench(overlap=False)
        second = expected_tokens(prompt, SamplingParams(max_tokens=2, ignore_eos=True))[1]
        for bench in (overlapped, plain):
            bench.submit(1, prompt, stop_token_ids=(second,))
            bench.drain()
            assert bench.tokens(1)[-1] == second
            assert bench.ends(1) == ["stop"]
        assert overlapped.tokens(1) == plain.tokens(1)
        assert len(overlapped.runner.batches) == len(plain.runner.batches) + 1

    def test_a_length_limit_costs_no_extra_step(self):
        overlapped, plain = Bench(), Bench(overlap=False)
        for bench in (overlapped, plain):
            bench.submit(1, [1, 2], max_tokens=5)
            bench.drain()
        assert len(overlapped.runner.batches) == len(plain.runner.batches) == 5

    def test_one_frame_for_each_client_and_step(self):
        bench = Bench()
        for client in (1, 2):
            for request_id in (1, 2):
                bench.submit(request_id, [client, request_id], client=client, max_tokens=1)
        bench.step(2)
        assert [(client, len(frame.events)) for client, frame in bench.frames] == [(1, 2), (2, 2)]

    def test_what_the_runner_raises_ends_the_loop(self):
        bench = Bench()

        def lose_device():
            raise RuntimeError("device lost")

        bench.runner.on_read = lose_device
        bench.submit(1, [1])
        with pytest.raises(RuntimeError, match="device lost"):
            bench.engine.run()

    def test_each_time_round_counts_as_progress(self):
        bench = Bench()
        bench.submit(1, [1, 2])
        for now in (1.0, 2.0):
            bench.now = now
            bench.step()
            assert bench.engine.last_progress == now

    def test_an_idle_loop_makes_progress_and_checks_integrity(self, monkeypatch):
        monkeypatch.setattr("server.engine.engine._IDLE_SECONDS", 0.001)
        bench = Bench()
        bench.now = 7.0
        bench.step()
        assert bench.engine.last_progress == 7.0
        bench.ranks.schedulers[0]._running._free_slots.pop()
        with pytest.raises(IntegrityError):
            bench.step()

    def test_frames_may_come_from_any_thread(self):
        bench = Bench(max_queue_len=100)
        loop = threading.Thread(target=bench.engine.run)
        loop.start()
        expected = {}

        def send(client):
            for request_id in range(10):
                expected[client, request_id] = bench.submit(
                    request_id, [client, request_id], client=client
                )

        senders = [threading.Thread(target=send, args=(client,)) for client in range(3)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        bench.engine.drain()
        loop.join(timeout=30)
        assert not loop.is_alive()
        for (client, request_id), [tokens] in expected.items():
            assert bench.tokens(request_id, client=client) == tokens


requests = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.integers(1, 3),
        st.fixed_dictionaries(
            {
                "prompt": st.lists(st.integers(0, 2), min_size=1, max_size=14),
                "max_tokens": st.integers(0, 10),
                "min_tokens": st.integers(0, 3),
                "seed": st.integers(0, 3),
                "ignore_eos": st.booleans(),
                "stop_token_ids": st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=1).map(tuple),
            }
        ),
    ),
    min_size=1,
    max_size=8,
)


class TestOracle:
    @settings(max_examples=60)
    @given(
        requests=requests,
        num_blocks=st.integers(8, 14),
        windows=st.sampled_from([(), (), (KVKind(3, 6),), (KVKind(6, 8),)]),
        prefix_caching=st.booleans(),
    )
    def test_overlapped_or_not_every_choice_gets_the_same_tokens_in_the_same_order(
        self, requests, num_blocks, windows, prefix_caching
    ):
        kinds = (KVKind(None, num_blocks), *windows)
        limits = {"kinds": kinds, "prefix_caching": prefix_caching, "max_queue_len": 99}
        overlapped = self.streams(requests, overlap=True, **limits)
        assert overlapped == self.streams(requests, overlap=False, **limits)

    def streams(self, requests, **limits):
        """The tokens of every choice, each request coming in some steps after the last."""
        bench = Bench(**limits)
        expected = {}
        for request_id, (num_steps, n, fields) in enumerate(requests):
            for index, tokens in enumerate(bench.submit(request_id, n=n, **fields)):
                expected[request_id, index] = tokens
            bench.step(num_steps)
        bench.drain()
        streams = {key: bench.tokens(*key) for key in bench.events()}
        assert streams == expected
        for request_id, (_, n, _) in enumerate(requests):
            assert set(bench.ends(request_id, n)) <= {"stop", "length"}
        return streams

    @pytest.mark.parametrize("overlap", [True, False])
    def test_preempted_and_resumed_the_tokens_are_the_same(self, overlap):
        bench = Bench(overlap=overlap, num_blocks=12)
        expected = {
            i: bench.submit(i, [1, 2, 3, 4, 5, 6, 7, 8, i], n=2, max_tokens=20) for i in range(6)
        }
        bench.drain()
        assert bench.observer.num_preempted > 0
        for i, choices in expected.items():
            assert [bench.tokens(i, index) for index in range(2)] == choices
            assert bench.ends(i, 2) == ["length", "length"]


operations = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(1, 3), st.sampled_from([None, None, 4.0])),
        st.tuples(st.just("abort"), st.integers(0, 9), st.sampled_from([None, None, 0, 1])),
        st.tuples(st.just("step"), st.integers(1, 4), st.none()),
        st.tuples(st.just("wait"), st.integers(1, 3), st.none()),
        st.tuples(st.just("disconnect"), st.integers(1, 2), st.none()),
    ),
    min_size=5,
    max_size=30,
)


class TestTerminalEvents:
    @settings(max_examples=80)
    @given(operations=operations, overlap=st.booleans())
    def test_every_choice_ends_exactly_once_or_was_called_off(self, operations, overlap):
        bench = Bench(overlap=overlap, num_blocks=8, max_queue_len=3)
        choices, called_off = set(), set()
        for number, (name, amount, option) in enumerate(operations):
            client = number % 2 + 1
            if name == "submit":
                deadline = option and bench.now + option
                bench.submit(number, range(9), client=client, n=amount, deadline=deadline)
                choices |= {(client, number, index) for index in range(amount)}
            elif name == "abort" and choices:
                owner, request_id, _ = sorted(choices)[amount % len(choices)]
                bench.abort(request_id, index=option, client=owner)
                called_off |= {
                    choice
                    for choice in choices
                    if choice[:2] == (owner, request_id) and option in (None, choice[2])
                }
            elif name == "disconnect":
                bench.engine.disconnect(amount)
                called_off |= {choice for choice in choices if choice[0] == amount}
            elif name == "wait":
                bench.now += amount
            elif bench.dispatched or bench.ranks.num_unfinished:
                bench.step(1)
        bench.drain()
        for client, request_id, index in choices:
            events = bench.events(client)[request_id, index]
            num_ends = sum(event.finish_reason is not None for event in events)
            is_called_off = (client, request_id, index) in called_off
            assert num_ends == 1 or (num_ends == 0 and is_called_off)
            assert not events or not num_ends or events[-1].finish_reason
        num_requests = len({choice[:2] for choice in choices})
        assert len(bench.observer.finished) + len(bench.observer.refused) == num_requests


class TestAbort:
    @pytest.mark.parametrize("num_steps", range(6))
    @pytest.mark.parametrize("overlap", [True, False])
    def test_an_abort_frees_the_blocks_within_one_step_in_every_state(self, num_steps, overlap):
        """Not yet taken in, prefilling in chunks, decoding; with a step in flight or without."""
        bench = Bench(overlap=overlap)
        bench.submit(1, range(18), n=2)
        bench.submit(2, [1], max_tokens=20)
        bench.step(num_steps)
        num_sent = {key: len(events) for key, events in bench.events().items()}
        bench.abort(1)
        bench.step()
        assert bench.num_held_blocks <= 2, "only the other request holds any"
        bench.drain()
        for index in range(2):
            events = bench.events()[1, index]
            assert len(events) == num_sent.get((1, index), 0), "nothing is sent after an abort"
        assert bench.ends(2) == ["length"]
        assert bench.observer.outcomes == ["abort", "length"]

    def test_a_waiting_request_is_aborted(self):
        bench = Bench(max_num_seqs=1)
        bench.submit(1, [1], max_tokens=4)
        bench.submit(2, [2])
        bench.step(2)
        bench.abort(2)
        bench.drain()
        assert (2, 0) not in bench.events()
        assert bench.observer.outcomes == ["abort", "length"]

    def test_a_preempted_request_is_aborted(self):
        bench = Bench(num_blocks=5, max_num_seqs=2)
        bench.submit(1, [1, 2, 3], max_tokens=12)
        bench.submit(2, [4, 5, 6], max_tokens=12)
        while not bench.observer.num_preempted:
            bench.step()
        bench.abort(2)
        bench.drain()
        assert bench.observer.outcomes == ["abort", "length"]

    def test_an_abort_of_one_choice_leaves_the_others(self):
        bench = Bench()
        expected = bench.submit(1, [1, 2], n=3)
        bench.step(3)
        bench.abort(1, index=1, reason="stop")
        bench.drain()
        assert bench.tokens(1, 0) == expected[0]
        assert bench.tokens(1, 2) == expected[2]
        assert len(bench.tokens(1, 1)) < len(expected[1])
        assert bench.observer.outcomes == ["length"], "a request counts once"

    @pytest.mark.parametrize("reason", ["abort", "stop", "deadline_exceeded"])
    def test_counts_as_its_reason(self, reason):
        bench = Bench()
        bench.submit(1, [1, 2])
        bench.step(3)
        bench.abort(1, reason=reason)
        bench.drain()
        assert bench.observer.outcomes == [reason]

    def test_an_abort_of_what_is_unknown_or_ended_is_ignored(self):
        bench = Bench()
        bench.submit(1, [1], max_tokens=1, n=2)
        bench.submit(2, [1], max_tokens=6)
        bench.step(3)
        bench.abort(1)
        bench.abort(99)
        bench.abort(2, index=5)
        bench.abort(2, client=7)
        bench.drain()
        assert bench.ends(2) == ["length"]
        assert bench.observer.outcomes == ["length", "length"]

    def test_right_behind_its_request(self):
        bench = Bench()
        bench.submit(1, [1])
        bench.abort(1)
        bench.drain()
        assert bench.runner.batches == []
        assert bench.observer.outcomes == ["abort"]

    def test_a_client_that_is_gone_takes_all_it_had_with_it(self):
        bench = Bench()
        for client in (1, 2):
            bench.submit(1, [client], client=client)
            bench.submit(2, [client, 9], client=client, n=2)
        bench.step(3)
        num_frames = sum(client == 1 for client, _ in bench.frames)
        bench.engine.disconnect(1)
        bench.drain()
        assert sum(client == 1 for client, _ in bench.frames) == num_frames
        assert bench.ends(1, client=2) == ["length"]
        assert bench.ends(2, n=2, client=2) == ["length", "length"]
        assert sorted(bench.observer.outcomes) == ["abort", "abort", "length", "length"]


class TestRefusal:
    def refusal(self, bench, request_id, n=1):
        events = [bench.events()[request_id, index] for index in range(n)]
        assert all(len(choice) == 1 for choice in events), "one terminal event for each choice"
        assert {choice[0].finish_reason for choice in events} == {"error"}
        return {choice[0].error for choice in events}

    def test_a_full_queue_is_told_at_once_for_every_choice(self):
        bench = Bench(max_queue_len=1)
        bench.submit(1, [1])
        bench.submit(2, [2], n=3)
        bench.step()
        assert self.refusal(bench, 2, n=3) == {"queue_full"}
        assert bench.observer.refused == ["queue_full"]
        bench.drain()
        assert bench.ends(1) == ["length"]

    def test_what_never_fits_is_told_with_numbers(self):
        bench = Bench(num_blocks=3)
        bench.submit(1, range(8))
        bench.step()
        assert self.refusal(bench, 1) == {"invalid_request"}
        assert "needs 3 KV blocks" in bench.events()[1, 0][0].message
        bench.drain()

    def test_a_draining_engine_refuses_requests(self):
        bench = Bench()
        bench.submit(1, [1])
        bench.step()
        bench.engine.drain()
        bench.submit(2, [1])
        bench.drain()
        assert self.refusal(bench, 2) == {"unavailable"}
        assert bench.ends(1) == ["length"]

    def test_a_deadline_that_has_passed(self):
        bench = Bench()
        bench.now = 2.0
        bench.submit(1, [1], deadline=1.0)
        bench.step()
        assert self.refusal(bench, 1) == {"deadline_exceeded"}
        assert bench.observer.hopeless == [True]
        bench.drain()

    def test_refusals_by_an_api_process_are_counted(self):
        bench = Bench()
        bench.engine.receive(1, link.Refused(outcome="not_found"))
        bench.step()
        assert bench.observer.refused == ["not_found"]
        assert bench.frames == []


class TestEnding:
    def test_a_deadline_ends_a_running_request_and_frees_its_blocks_within_one_step(self):
        bench = Bench()
        bench.submit(1, [1, 2], deadline=5.0, n=2)
        bench.step(3)
        bench.now = 5.0
        bench.step()
        assert bench.num_held_blocks == 0
        bench.drain()
        assert bench.ends(1, n=2) == ["deadline_exceeded", "deadline_exceeded"]
        assert bench.observer.outcomes == ["deadline_exceeded"]
        # It never waited: any server would have been too slow for it.
        assert bench.observer.hopeless == [True]

    def test_a_deadline_ends_a_waiting_request(self):
        bench = Bench(max_num_seqs=1)
        bench.submit(1, [1], max_tokens=10)
        bench.step()
        bench.submit(2, [2], deadline=1.0)
        bench.step()
        bench.now = 1.0
        bench.drain()
        assert bench.ends(2) == ["deadline_exceeded"]
        assert bench.ends(1) == ["length"]
        assert dict(zip(bench.observer.outcomes, bench.observer.hopeless, strict=True)) == {
            "deadline_exceeded": False,
            "length": False,
        }

    def test_a_drain_finishes_what_was_accepted_also_what_waits(self):
        bench = Bench(max_num_seqs=1)
        expected = {i: bench.submit(i, [i]) for i in range(4)}
        bench.engine.drain()
        bench.engine.run()
        for i, [tokens] in expected.items():
            assert bench.tokens(i) == tokens

    def test_a_stop_ends_everything_with_an_error_at_once(self):
        bench = Bench(max_num_seqs=1)
        bench.submit(1, [1], n=2)
        bench.submit(2, [2])
        bench.step(3)
        bench.engine.stop()
        bench.step()
        assert bench.num_held_blocks == 0
        bench.drain()
        assert bench.ends(1, n=2) == ["unavailable", "unavailable"]
        assert bench.ends(2) == ["unavailable"]
        assert bench.observer.outcomes == ["unavailable", "unavailable"]

    def test_logits_that_are_not_finite_end_only_their_own_request(self):
        bench = Bench()
        bench.runner.poisoned_request_ids.add(1)
        bench.submit(1, range(9))
        [expected] = bench.submit(2, range(9))
        bench.drain()
        assert bench.ends(1) == ["internal"]
        assert bench.tokens(2) == expected
        assert sorted(bench.observer.outcomes) == ["internal", "length"]


class TestObservation:
    def test_queue_first_token_and_per_token_times(self):
        bench = Bench(overlap=False)
        bench.submit(1, [1, 2], max_tokens=3)
        bench.now = 2.0
        bench.step()
        bench.now = 5.0
        bench.step()
        bench.now = 6.0
        bench.step()
        assert bench.observer.admitted == [(2.0, 2, 0)]
        assert bench.observer.first_tokens == [2.0]
        assert [stats.inter_token_seconds for stats in bench.observer.steps] == [(), (3.0,), (1.0,)]
        assert bench.observer.finished == [("length", 6.0, 2.0)]

    def test_a_request_is_admitted_once_whatever_its_choices_and_preemptions(self):
        bench = Bench(num_blocks=8)
        bench.submit(1, range(9), n=3, max_tokens=12)
        bench.drain()
        assert bench.observer.num_preempted > 0
        assert bench.observer.admitted == [(0.0, 9, 0)]
        assert len(bench.observer.first_tokens) == 1
        assert bench.observer.outcomes == ["length"]

    def test_cached_tokens_are_told_on_admission(self):
        bench = Bench()
        bench.submit(1, range(8), max_tokens=1)
        bench.step(2)
        bench.submit(2, range(8), max_tokens=1)
        bench.drain()
        assert bench.observer.admitted == [(0.0, 8, 0), (0.0, 8, 4)]

    def test_steps_are_told_by_kind_with_their_tokens(self):
        bench = Bench()
        bench.submit(1, [1, 2, 3], max_tokens=3)
        bench.step()
        bench.submit(2, [4, 5], max_tokens=2)
        bench.drain()
        told = [
            (stats.kind, stats.num_tokens, stats.num_padded_tokens, stats.num_generated_tokens)
            for stats in bench.observer.steps
        ]
        assert told == [("prefill", 3, 8, 1), ("mixed", 3, 8, 2), ("decode", 2, 8, 2)]

    def test_a_step_lasts_from_when_the_device_was_free_for_it(self):
        """Overlapped: the second is dispatched at 0, but the device runs the first until 3."""
        bench = Bench()
        bench.submit(1, [1], max_tokens=2)
        bench.runner.on_read = lambda: setattr(bench, "now", bench.now + 3.0)
        bench.drain()
        assert [stats.duration for stats in bench.observer.steps] == [3.0, 3.0]

    def test_the_load_counts_requests_sequences_and_blocks(self):
        bench = Bench(max_num_seqs=2, num_blocks=9, max_queue_len=1)
        bench.submit(1, range(3), n=2)
        bench.step()
        bench.submit(2, range(3), n=2)
        bench.step()
        load = bench.engine.load()
        assert (load.num_requests_waiting, load.num_sequences_running) == (1, 2)
        assert load.num_unfinished == 4
        assert (load.num_free_blocks, load.num_usable_blocks) == (6, 8)
        assert load.is_queue_full
        bench.drain()
        assert not bench.engine.load().is_queue_full

    def test_the_load_is_that_of_the_fullest_kind_of_layers(self):
        bench = Bench(kinds=(KVKind(None, 9), KVKind(3, 6)))
        bench.submit(1, range(4))
        bench.step()
        assert bench.num_held_blocks == 2
        load = bench.engine.load()
        assert (load.num_free_blocks, load.num_usable_blocks) == (3, 5)
        bench.drain()


@pytest.mark.parametrize("overlap", [True, False])
def test_the_device_is_busy_while_a_step_is_on_it_and_idle_after_the_last(overlap):
    bench = Bench(overlap=overlap)
    assert bench.engine.running_seconds() == 0
    bench.submit(1, [1, 2, 3], max_tokens=3)
    bench.step()
    bench.now = 3.0
    assert bench.engine.running_seconds() == (3 if overlap else 0)
    bench.step()
    bench.now = 4.0
    assert bench.engine.running_seconds() == (1 if overlap else 0)
    while bench.dispatched or bench.ranks.num_unfinished:
        bench.step()
    assert bench.engine.running_seconds() == 0


def test_a_step_that_hangs_keeps_the_device_busy(monkeypatch):
    bench = Bench(overlap=False)
    seen = []

    def slow_read(runner, in_flight):
        bench.now += 5.0
        seen.append(bench.engine.running_seconds())
        return read(runner, in_flight)

    read = FakeRunner.read
    monkeypatch.setattr(FakeRunner, "read", slow_read)
    bench.submit(1, [1, 2, 3], max_tokens=1)
    bench.step()
    assert seen == [5.0]


def test_a_queue_stalls_while_requests_wait_and_none_begins():
    bench = Bench(max_num_seqs=1)
    first = bench.submit(1, [1, 2, 3], max_tokens=9)
    bench.step()
    bench.now = 5.0
    assert bench.engine.queue_stall_seconds() == 0, "nobody waits"
    bench.submit(2, [4], max_tokens=1)
    bench.submit(3, [5], max_tokens=1)
    bench.step()
    bench.now = 9.0
    bench.step()
    assert bench.engine.queue_stall_seconds() == 4.0
    while len(bench.tokens(2)) == 0:
        bench.step()
    bench.now = 10.0
    assert bench.engine.queue_stall_seconds() <= 1.0
    bench.drain()
    assert bench.engine.queue_stall_seconds() == 0
    assert bench.tokens(1) == first[0]


def test_the_source_that_a_request_names_takes_the_turns():
    bench = Bench(max_num_seqs=1)
    for request_id, source in ((1, "a"), (2, "a"), (3, "b")):
        bench.submit(request_id, [request_id], max_tokens=1, source=source)
    bench.drain()
    order = [request_id for batch in bench.runner.batches for request_id, *_ in batch]
    assert order == [1, 3, 2]


@pytest.mark.parametrize("overlap", [True, False])
def test_a_small_prompt_behind_twenty_long_ones_has_its_token_within_three_steps(overlap):
    limits = {"num_blocks": 400, "max_num_seqs": 8, "max_num_batched_tokens": 16}
    bench = Bench(overlap=overlap, max_queue_len=64, **limits)
    long = [bench.submit(number, [number % 7] * 55, max_tokens=3) for number in range(20)]
    bench.step(4)
    (small,) = bench.submit(50, [1, 2, 3], max_tokens=2)
    bench.step(3)
    assert bench.tokens(50)
    bench.drain()
    assert bench.tokens(50) == small
    assert [[bench.tokens(number)] for number in range(20)] == long
