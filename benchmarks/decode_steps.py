"""Steps in which as many rows as there are slots decode, on a loaded model: how long each takes.

Every run has an engine of its own. Knows neither what requests ask for nor what is compared.
Importing it imports JAX, so set its variables first.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field

from server.engine.device.model_runner import ModelRunner
from server.engine.engine import Dispatched, Engine
from server.engine.policy.adapter_slots import AdapterSlots
from server.engine.policy.blocks.block_manager import BlockManager
from server.engine.policy.data_ranks import Ranks
from server.engine.policy.scheduler import Scheduler
from server.engine.policy.sequences.sequence import LoadedVersion
from server.engine.policy.served_versions import ServedVersions
from server.link.frames import Step
from tests.engine.fakes import FakeObserver


@dataclass(slots=True)
class Times:
    """In milliseconds: between steps, and between the tokens of each request, by its id."""

    steps: list[float] = field(default_factory=list)
    tokens: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))


class DecodeRun:
    """One engine with `num_rows` slots. Give `engine` as many requests, then measure."""

    def __init__(self, runner: ModelRunner, num_rows: int, num_adapters: int = 0) -> None:
        self._num_rows = num_rows
        scheduler = Scheduler(
            BlockManager(runner.kinds, runner.block_size),
            max_num_seqs=num_rows,
            max_num_batched_tokens=runner.max_num_batched_tokens,
            max_queue_len=num_rows,
            max_model_len=runner.max_model_len,
            versions=ServedVersions(LoadedVersion()),
            adapters=AdapterSlots(num_adapters),
        )
        self._arrivals: dict[int, float] = {}
        self._times = Times()
        self._all_decode = False
        self.engine = Engine(
            Ranks([scheduler]), runner, FakeObserver(), self._receive, eos_token_ids=()
        )

    def measure(self) -> Times:
        """Run to the end. Counts only while all rows decode."""
        unread, last = self.engine.step(None), time.perf_counter()
        while unread or self.engine.load().num_unfinished:
            self._all_decode = self._is_full(unread)
            unread, now = self.engine.step(unread), time.perf_counter()
            if self._all_decode:
                self._times.steps.append(1000 * (now - last))
            last = now
        return self._times

    def _is_full(self, dispatched: Dispatched[object] | None) -> bool:
        rows = dispatched.batch.rows if dispatched else ()
        return len(rows) == self._num_rows and all(row.is_decode for row in rows)

    def _receive(self, _: int, frame: Step) -> None:
        now = time.perf_counter()
        for event in frame.events:
            before = self._arrivals.get(event.request_id)
            if before is not None and self._all_decode:
                self._times.tokens[event.request_id].append(1000 * (now - before))
            self._arrivals[event.request_id] = now
