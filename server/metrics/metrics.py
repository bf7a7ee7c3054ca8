"""Every metric of the server, in one injected object that renders the text gateways scrape.

The step loop counts into plain numbers. The pulse thread renders them as Prometheus text, but only
when a number has changed. Every family is in the first render with value 0, because a gateway
counts a missing family as an error. Knows neither sockets nor HTTP.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from server.engine.observer import StepStats
from server.link.status import EngineLoad, VersionStatus
from server.metrics.draft_metrics import DraftCounts, draft_metrics
from server.metrics.histogram import LONG_SECONDS, RATIOS, SHORT_SECONDS, BusyRatio, Histogram
from server.metrics.host_prefix_metrics import host_prefix_metrics
from server.metrics.key_counts import KeyCounts
from server.metrics.load import LoadMeter
from server.metrics.slice_metrics import chip_metrics, link_metric, slice_metrics
from server.metrics.snapshot import Snapshot
from server.metrics.state_metrics import state_metrics
from server.metrics.swap_counts import SwapCounts
from server.metrics.version_metrics import version_metrics
from server.metrics.vllm_metrics import vllm_metrics

OUTCOMES = (
    "stop", "length", "abort", "invalid_request", "unauthenticated", "not_found", "conflict",
    "version_gone", "too_large", "queue_full", "overloaded", "over_budget", "deadline_exceeded",
    "cancelled", "unavailable", "internal",
)  # fmt: skip
# The threads of the engine process, by name.
THREADS = (
    "adapters", "chips", "host-accept", "host-beat", "host-caller", "host-read", "link-accept",
    "link-read", "link-write", "model-config", "model-config-clock", "pulse", "versions",
)  # fmt: skip
STEP_KINDS = ("prefill", "decode", "mixed")


class Metrics(Collector):
    """Implements the engine's Observer; only the step loop's thread may count.

    `swaps` is for the version manager. `on_compilation` and `on_cache_hit` may come from any
    thread. One thread at a time may call `render`.
    """

    def __init__(
        self,
        *,
        model: str,
        version: str,
        release: str,
        clock: Callable[[], float] = time.monotonic,
        started: float | None = None,
        num_speculative_tokens: int = 0,
    ) -> None:
        self._model = model
        self._version = version
        self._release = release
        self._clock = clock
        self._started = time.time() if started is None else started
        self._counts: Counter[str] = Counter()
        self._outcomes: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))
        self._histograms = {name: Histogram(bounds) for name, (bounds, _) in _LATENCIES.items()}
        self._step_duration = {kind: Histogram(SHORT_SECONDS) for kind in STEP_KINDS}
        self._step_padding = Histogram(RATIOS)
        self._key_use = KeyCounts()
        self._drafts = DraftCounts(num_speculative_tokens)
        self.swaps = SwapCounts()
        self._busy = BusyRatio()
        self._load = LoadMeter(clock)
        self._busy_seconds = 0.0
        self._num_changes = 0
        self._compilation_lock = threading.Lock()
        self._gauges = Snapshot()
        self._adapters_changed = self._started
        self._busy_ratio = 0.0
        self._rendered: tuple[object, bytes] = (None, b"")
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def on_step(self, stats: StepStats) -> None:
        self._num_changes += 1
        self._busy_seconds += stats.duration
        self._load.on_step(stats.duration, stats.num_generated_tokens)
        self._counts["generated_tokens"] += stats.num_generated_tokens
        self._step_duration[stats.kind].observe(stats.duration)
        if stats.num_padded_tokens:
            self._step_padding.observe(1 - stats.num_tokens / stats.num_padded_tokens)
        for seconds in stats.inter_token_seconds:
            self._histograms["inter_token_latency"].observe(seconds)
        for num_drafted, num_accepted in stats.drafts:
            self._drafts.add(num_drafted, num_accepted)

    def on_preempted(self, num_preempted: int) -> None:
        self._num_changes += 1
        self._counts["preemptions"] += num_preempted

    def on_admitted(
        self, queue_seconds: float, num_prompt_tokens: int, num_cached_tokens: int
    ) -> None:
        self._num_changes += 1
        self._histograms["queue_duration"].observe(queue_seconds)
        self._load.on_admitted(queue_seconds, num_prompt_tokens, num_cached_tokens)
        self._counts["prompt_tokens"] += num_prompt_tokens
        self._counts["prefix_cache_hit_tokens"] += num_cached_tokens

    def on_first_token(self, seconds: float) -> None:
        self._num_changes += 1
        self._histograms["time_to_first_token"].observe(seconds)

    def on_finished(
        self,
        outcome: str,
        seconds: float,
        seconds_per_output_token: float | None,
        *,
        is_hopeless: bool = False,
    ) -> None:
        self._num_changes += 1
        self._outcomes[outcome] += 1
        self._load.on_ended(outcome, seconds, is_hopeless=is_hopeless)
        self._histograms["request_duration"].observe(seconds)
        if seconds_per_output_token is not None:
            self._histograms["time_per_output_token"].observe(seconds_per_output_token)

    def on_refused(self, outcome: str, *, is_hopeless: bool = False) -> None:
        self._num_changes += 1
        self._outcomes[outcome] += 1
        self._load.on_ended(outcome, is_hopeless=is_hopeless)

    def on_key_use(self, key: str, num_prompt_tokens: int, num_generated_tokens: int) -> None:
        self._num_changes += 1
        self._key_use.add(key, num_prompt_tokens, num_generated_tokens)

    def on_compilation(self, *, is_ready: bool) -> None:
        """A program was compiled, or was taken from the compilation cache."""
        with self._compilation_lock:
            self._counts["compilations"] += 1
            self._counts["compilations_after_ready"] += is_ready

    def on_cache_hit(self) -> None:
        """A program was taken from the compilation cache."""
        with self._compilation_lock:
            self._counts["compilation_cache_hits"] += 1

    def render(self, gauges: Snapshot, running_seconds: float = 0.0) -> bytes:
        """The exposition text, format 0.0.4; the same object as before if nothing changed.

        `running_seconds` is how long the current step has been on the device.
        """
        if gauges.adapters != self._gauges.adapters:
            self._adapters_changed = max(time.time(), self._started)
        self._gauges = gauges
        busy_seconds = self._busy_seconds + running_seconds
        self._busy_ratio = self._busy.update(self._clock(), busy_seconds)
        changes = self._num_changes + self.swaps.num_changes
        state = (gauges, self._busy_ratio, changes, self._counts["compilations"])
        if state != self._rendered[0]:
            self._rendered = (state, generate_latest(self._registry))
        return self._rendered[1]

    def load(self) -> EngineLoad:
        """The load at the last `render`; for the same thread."""
        return self._load.load(self._gauges, self._busy_ratio)

    def collect(self) -> Iterator[Metric]:
        yield from vllm_metrics(
            self._model,
            self._adapters_changed,
            self._gauges,
            self._histograms,
            self._counts,
            self._outcomes,
        )
        yield from draft_metrics(self._drafts, self._model)
        yield from host_prefix_metrics(self._gauges.host_prefixes)
        yield from self._load_families()
        yield from self._latency_families()
        yield from self._count_families()
        yield from state_metrics(self._gauges)
        yield self._build_info()
        yield from version_metrics(self._versions)
        yield from self.swaps.collect(is_followed=not self._gauges.config_error)
        yield from slice_metrics(self._gauges.slice)
        yield link_metric(self._gauges.host_links)
        yield from chip_metrics(self._gauges.chips)

    def _load_families(self) -> Iterator[Metric]:
        gauges = self._gauges
        yield _gauge(
            "antipode_num_requests_waiting", "Requests in the queue.", gauges.num_requests_waiting
        )
        yield _gauge(
            "antipode_num_requests_running",
            "Sequences that are being generated.",
            gauges.num_requests_running,
        )
        yield _gauge(
            "antipode_kv_cache_usage_ratio",
            "Part of the KV blocks that sequences hold, 0 to 1, in the fullest pool.",
            gauges.kv_cache_usage_ratio,
        )
        yield _gauge(
            "antipode_load_ratio",
            "Sequences running plus requests waiting, per sequence that may run; 1 is full.",
            gauges.load_ratio,
        )
        cache = {"block_size": str(gauges.block_size), "num_blocks": str(gauges.num_blocks)}
        yield _gauge("antipode_cache_config_info", "Shape of the KV cache.", 1, cache)
        yield _gauge(
            "antipode_device_busy_ratio",
            "Part of the last second in which the device ran a step, 0 to 1.",
            self._busy_ratio,
        )

    def _latency_families(self) -> Iterator[Metric]:
        for name, (_, description) in _LATENCIES.items():
            family = HistogramMetricFamily(f"antipode_{name}_seconds", description)
            family.add_metric([], *self._histograms[name].cumulative())
            yield family
        steps = HistogramMetricFamily(
            "antipode_step_duration_seconds", "Time of one step on the device.", labels=["kind"]
        )
        for kind, histogram in self._step_duration.items():
            steps.add_metric([kind], *histogram.cumulative())
        yield steps
        padding = HistogramMetricFamily(
            "antipode_step_padding_ratio", "Part of a step's tokens that were padding, 0 to 1."
        )
        padding.add_metric([], *self._step_padding.cumulative())
        yield padding

    def _count_families(self) -> Iterator[Metric]:
        for name, description in _COUNTERS.items():
            yield CounterMetricFamily(f"antipode_{name}", description, self._counts[name])
        requests = CounterMetricFamily(
            "antipode_requests", "Requests that ended, by outcome.", labels=["outcome"]
        )
        for outcome, count in tuple(self._outcomes.items()):
            requests.add_metric([outcome], count)
        yield requests
        yield from self._key_use.collect()
        faults = CounterMetricFamily(
            "antipode_thread_faults",
            "Exceptions that nobody foresaw, by the thread that went on or ended its connection.",
            labels=["thread"],
        )
        for name, count in (dict.fromkeys(THREADS, 0) | dict(self._gauges.thread_faults)).items():
            faults.add_metric([name], count)
        yield faults

    def _build_info(self) -> Metric:
        version = self._versions[0].version
        labels = {"release": self._release, "model": self._model, "version": version}
        return _gauge("antipode_build_info", "The release, model and version that run.", 1, labels)

    @property
    def _versions(self) -> tuple[VersionStatus, ...]:
        """The known versions; during start-up, the version that the server starts with."""
        first = VersionStatus(version=self._version, path="", state="LOADING")
        return self._gauges.versions or (first,)


# Bounds and description of each latency in seconds.
_LATENCIES = {
    "time_to_first_token": (LONG_SECONDS, "From arrival to the first token."),
    "inter_token_latency": (SHORT_SECONDS, "Time between two tokens of a choice."),
    "time_per_output_token": (
        SHORT_SECONDS,
        "Mean time per token of a request after its first token.",
    ),
    "request_duration": (LONG_SECONDS, "From arrival to the end."),
    "queue_duration": (LONG_SECONDS, "From arrival to the first step."),
}
_COUNTERS = {
    "prompt_tokens": "Prompt tokens of admitted requests.",
    "generated_tokens": "Tokens generated.",
    "prefix_cache_hit_tokens": "Prompt tokens whose KV was found in the prefix cache.",
    "preemptions": "Sequences that lost their blocks to another sequence and were requeued.",
    "compilations": "Programs compiled, or taken from the compilation cache.",
    "compilation_cache_hits": "Programs taken from the compilation cache.",
    "compilations_after_ready": "Programs compiled while serving; each one is a fault.",
}


def _gauge(
    name: str, description: str, value: float, labels: dict[str, str] | None = None
) -> Metric:
    family = GaugeMetricFamily(name, description, labels=list(labels or {}))
    family.add_metric(list((labels or {}).values()), float(value))
    return family
