"""How an engine process is doing, as its pulses and metrics tell it.

The process writes down what it comes to know, each value from one thread; reading it needs no lock.
It decides nothing, and knows no socket.
"""

from __future__ import annotations

import time
from typing import Any

from server.adapters.manager import AdapterManager
from server.config.engine_config import EngineConfig
from server.engine.engine import Engine
from server.link.frames import EngineState, Pulse
from server.metrics.metrics import Metrics
from server.metrics.snapshot import AdapterUse, Snapshot
from server.processes.engine.build import ServingRunner
from server.slice.chips import ChipUse
from server.slice.host_group import HostLink
from server.slice.resolve import Slice
from server.start_clock import StartClock, process_age
from server.threads import fault_counts
from server.versions.manager import VersionManager


class Status:
    """`start` and `detail` are of the start; `chips` are by the index of their host."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._engine: Engine[Any] | None = None
        self._num_slots = self._num_blocks = self._block_size = self._max_queue_len = 0
        self._versions: VersionManager | None = None
        self._adapters: AdapterManager | None = None
        self.start = StartClock(age=process_age())
        self.detail = "starting"
        self.slice: Slice | None = None
        self.host_links: tuple[HostLink, ...] = ()
        self.chips: dict[int, ChipUse] = {}
        self.is_draining = False

    def serve(
        self,
        engine: Engine[Any],
        versions: VersionManager,
        adapters: AdapterManager,
        runner: ServingRunner,
        config: EngineConfig,
    ) -> None:
        """The start is over. Who is told so is told of the versions too."""
        self._versions, self._adapters = versions, adapters
        self.start.end()
        self._num_slots = runner.num_ranks * config.max_num_seqs
        self._num_blocks = runner.num_ranks * runner.kinds[0].num_blocks
        self._block_size = runner.block_size
        self._max_queue_len = config.max_queue_len
        self._engine = engine

    @property
    def is_serving(self) -> bool:
        """Whether the start is over."""
        return self._engine is not None

    def pulse(self) -> Pulse:
        """All of it, now. One thread at a time.

        The engine is looked at once: it may begin to serve meanwhile, and a pulse that says
        "ready" has its load and its versions.
        """
        engine = self._engine
        if engine is None:
            return self._starting("draining" if self.is_draining else "starting")
        return self._serving(engine, "draining" if self.is_draining else "ready")

    def _config_error(self) -> str:
        """Why the model configuration file is not followed, for the model or for adapters."""
        managers = (self._versions, self._adapters)
        return "; ".join(each.config_error for each in managers if each and each.config_error)

    def _starting(self, state: EngineState) -> Pulse:
        gauges = Snapshot(
            state=state,
            start_seconds=self.start.seconds(),
            thread_faults=fault_counts(),
            slice=self.slice,
            host_links=self.host_links,
        )
        return Pulse(
            state=state,
            detail=self.detail,
            phase=self.start.phase,
            phase_seconds=round(self.start.phase_seconds, 1),
            progress=round(self.start.progress, 2),
            metrics=self._metrics.render(gauges),
        )

    def _serving(self, engine: Engine[Any], state: EngineState) -> Pulse:
        load = engine.load()
        age = max(0.0, time.monotonic() - engine.last_progress)
        stall = engine.queue_stall_seconds()
        gauges = Snapshot(
            state=state,
            num_requests_waiting=load.num_requests_waiting,
            num_requests_running=load.num_sequences_running,
            num_slots=self._num_slots,
            max_queue_len=self._max_queue_len,
            kv_cache_usage_ratio=1 - load.num_free_blocks / load.num_usable_blocks,
            num_blocks=self._num_blocks,
            block_size=self._block_size,
            step_age_seconds=age // 1,
            queue_stall_seconds=stall // 1,
            model_load_seconds=self.start.total,
            start_seconds=self.start.seconds(),
            host_prefixes=load.host,
            versions=self._versions.statuses() if self._versions else (),
            config_error=self._config_error(),
            adapters=AdapterUse(
                engine.adapters.num_slots, engine.adapters.running, engine.adapters.waiting
            ),
            thread_faults=fault_counts(),
            slice=self.slice,
            host_links=self.host_links,
            chips=dict(self.chips),
        )
        text = self._metrics.render(gauges, engine.running_seconds())
        return Pulse(
            state=state,
            progress_age=age,
            progress=1.0,
            metrics=text,
            load=self._metrics.load(),
            num_unfinished=load.num_unfinished,
            queue_full=load.is_queue_full,
            queue_stall=stall,
            versions=gauges.versions,
            config_error=gauges.config_error,
            adapters=self._adapters.statuses() if self._adapters else (),
        )
