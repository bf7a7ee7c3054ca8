from __future__ import annotations

from collections import defaultdict

import pytest

from server.engine import link
from server.engine.block_manager import BlockManager
from server.engine.engine import Engine, StepStats
from server.engine.scheduler import Scheduler
from tests.engine.fakes import EOS, FakeRunner, expected_tokens


class FakeObserver:
    def __init__(self):
        self.steps: list[StepStats] = []
        self.preempted = 0
        self.admitted: list[tuple[float, int, int]] = []
        self.first_tokens: list[float] = []
        self.finished: list[str] = []
        self.refused: list[str] = []

    def on_step(self, stats):
        self.steps.append(stats)

    def on_preempted(self, num_preempted):
        self.preempted += num_preempted

    def on_admitted(self, queue_seconds, num_prompt_tokens, num_cached_tokens):
        self.admitted.append((queue_seconds, num_prompt_tokens, num_cached_tokens))

    def on_first_token(self, seconds):
        self.first_tokens.append(seconds)

    def on_finished(self, outcome, seconds, seconds_per_output_token):
        self.finished.append(outcome)

    def on_refused(self, outcome):
        self.refused.append(outcome)


class Bench:
    """An engine on a fake device with a clock set by hand, and all the events it sent."""

    def __init__(
        self,
        *,
        overlap=True,
        num_blocks=12,
        block_size=4,
        max_num_seqs=4,
        max_num_batched_tokens=8,
        max_queue_len=8,
        max_model_len=64,
        prefix_caching=True,
    ):
        self.now = 0.0
        self.observer = FakeObserver()
        self.blocks = BlockManager(num_blocks, block_size, prefix_caching=prefix_caching)
        self.scheduler = Scheduler(
            self.blocks,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            max_queue_len=max_queue_len,
            max_model_len=max_model_len,
        )
        self.runner = FakeRunner(num_blocks, block_size, max_num_seqs, max_num_batched_tokens)
        self.frames: list[tuple[int, link.Step]] = []
        self.engine = Engine(
            self.scheduler,
            self.runner,
            self.observer,
            lambda client, frame: self.frames.append((client, frame)),
            eos_token_ids=(EOS,),
            overlap=overlap,
            clock=lambda: self.now,
        )

    def submit(self, request_id, prompt, *, client=1, n=1, deadline=None, **params):
        params = link.SamplingParams(**({"max_tokens": 8, "seed": request_id} | params))
        self.engine.receive(
            client,
            link.Submit(
                request_id=request_id,
                prompt_token_ids=prompt,
                params=params,
                n=n,
                arrival=self.now,
                deadline=deadline,
            ),
        )
        return [expected_tokens(prompt, params, index=index) for index in range(n)]

    def events(self, client=1):
        events = defaultdict(list)
        for receiver, frame in self.frames:
            if receiver == client:
                for event in frame.events:
                    events[event.request_id, event.index].append(event)
        return events

    def tokens(self, request_id, index=0, client=1):
        events = self.events(client)[request_id, index]
        return [token for event in events for token in event.token_ids]

    def run(self):
        self.engine.drain()
        self.engine.run()
        self.scheduler.check_integrity()
        assert self.blocks.num_free_blocks == self.blocks.num_usable_blocks


@pytest.mark.parametrize("overlap", [True, False])
def test_every_choice_gets_its_tokens_and_one_terminal_event(overlap):
    bench = Bench(overlap=overlap)
    prompts = {i: [1, 2, 3, 4, 5, 6, 7, 8, i] for i in range(6)}
    expected = {i: bench.submit(i, prompt, n=2, max_tokens=20) for i, prompt in prompts.items()}
    bench.run()
    for i, choices in expected.items():
        for index, tokens in enumerate(choices):
            assert bench.tokens(i, index) == tokens
            finishes = [event.finish_reason for event in bench.events()[i, index]]
            assert finishes[-1] in ("stop", "length")
            assert set(finishes[:-1]) <= {None}
    assert bench.observer.preempted > 0
