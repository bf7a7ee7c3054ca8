"""The values that metrics read at the moment they are rendered, and do not count.

The engine process puts them together from engine, versions, slice and hosts. Knows no Prometheus.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from server.engine.policy.blocks.host_pool import HostPrefixes
from server.link.frames import EngineState
from server.link.status import VersionStatus
from server.slice.chips import ChipUse
from server.slice.host_group import HostLink
from server.slice.resolve import Slice
from server.start_clock import StartPhase


@dataclass(frozen=True, slots=True)
class AdapterUse:
    """How many adapters fit on the device, and the names of those that requests use."""

    num_slots: int = 0
    running: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The values that are read, not counted, at the moment of rendering.

    `kv_cache_usage_ratio` is 0 to 1. It does not count cached blocks that may be reused at once.
    Where layers keep different windows, it is the ratio of the fullest pool, and `num_blocks` is
    that of the layers that keep everything. `num_slots` is the number of sequences that may run at
    once, and `max_queue_len` that of requests that may wait. `step_age_seconds` is the time since
    the step loop last began a round. `queue_stall_seconds` is for how long requests have waited
    without one that began. `num_slots`, `max_queue_len`, `num_blocks`, `block_size` and
    `model_load_seconds` are 0 until the model is loaded. `start_seconds` is what each phase of the
    start has taken so far. `slice` is
    None until JAX has its devices. `chips` has the use of each host's chips by the host's index.
    `thread_faults` counts exceptions by the name of a thread.
    """

    state: EngineState = "starting"
    num_requests_waiting: int = 0
    num_requests_running: int = 0
    num_slots: int = 0
    max_queue_len: int = 0
    kv_cache_usage_ratio: float = 0.0
    num_blocks: int = 0
    block_size: int = 0
    step_age_seconds: float = 0.0
    queue_stall_seconds: float = 0.0
    model_load_seconds: float = 0.0
    start_seconds: Mapping[StartPhase, float] = field(default_factory=dict)
    host_prefixes: HostPrefixes = field(default_factory=HostPrefixes)
    versions: tuple[VersionStatus, ...] = ()
    config_error: str = ""
    adapters: AdapterUse = AdapterUse()
    thread_faults: Mapping[str, int] = field(default_factory=dict)
    slice: Slice | None = None
    host_links: tuple[HostLink, ...] = ()
    chips: Mapping[int, ChipUse] = field(default_factory=dict)

    @property
    def load_ratio(self) -> float:
        """0 to 1, also with a queue, because a gateway takes this ratio for a utilization."""
        wanted = self.num_requests_running + self.num_requests_waiting
        return min(1.0, wanted / self.num_slots) if self.num_slots else 0.0
