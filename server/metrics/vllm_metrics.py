"""The metrics that pickers, autoscalers and dashboards know from vLLM, under vLLM's names.

Their numbers are those of the server's own families. One pod-level series each: a picker reads only
the first series of a family. Knows neither the engine nor how metrics are rendered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from server.metrics.histogram import Histogram
from server.metrics.snapshot import Snapshot

_AS_VLLM = "As in vLLM."
# vLLM's name by ours.
_HISTOGRAMS = {
    "time_to_first_token": "time_to_first_token_seconds",
    "inter_token_latency": "inter_token_latency_seconds",
    "time_per_output_token": "request_time_per_output_token_seconds",
    "request_duration": "e2e_request_latency_seconds",
    "queue_duration": "request_queue_time_seconds",
}
_COUNTERS = {
    "prompt_tokens": "prompt_tokens",
    "generated_tokens": "generation_tokens",
    "preemptions": "num_preemptions",
    "prefix_cache_hit_tokens": "prefix_cache_hits",
}
_FINISHED = ("stop", "length", "abort")


def vllm_metrics(
    model: str,
    adapters_changed: float,
    gauges: Snapshot,
    histograms: Mapping[str, Histogram],
    counts: Mapping[str, int],
    outcomes: Mapping[str, int],
) -> Iterator[Metric]:
    """`adapters_changed` is when other LoRA adapters came into use: a picker reads the time."""
    name = {"model_name": model}
    yield _gauge("num_requests_waiting", gauges.num_requests_waiting, name)
    yield _gauge("num_requests_running", gauges.num_requests_running, name)
    yield _gauge("kv_cache_usage_perc", gauges.kv_cache_usage_ratio, name)
    cache = {"block_size": str(gauges.block_size), "num_gpu_blocks": str(gauges.num_blocks)}
    yield _gauge("cache_config_info", 1, cache)
    adapters = {
        "max_lora": str(gauges.adapters.num_slots),
        "running_lora_adapters": ",".join(gauges.adapters.running),
        "waiting_lora_adapters": ",".join(gauges.adapters.waiting),
    }
    yield _gauge("lora_requests_info", adapters_changed, adapters)
    for ours, theirs in _HISTOGRAMS.items():
        family = HistogramMetricFamily(f"vllm:{theirs}", _AS_VLLM, labels=list(name))
        family.add_metric([model], *histograms[ours].cumulative())
        yield family
    for ours, theirs in _COUNTERS.items():
        yield _counter(theirs, model, counts.get(ours, 0))
    # Every prompt token is looked for in the prefix cache.
    yield _counter("prefix_cache_queries", model, counts.get("prompt_tokens", 0))
    finished = CounterMetricFamily(
        "vllm:request_success", _AS_VLLM, labels=[*name, "finished_reason"]
    )
    for outcome in _FINISHED:
        finished.add_metric([model, outcome], outcomes.get(outcome, 0))
    yield finished


def _gauge(name: str, value: float, labels: Mapping[str, str]) -> Metric:
    family = GaugeMetricFamily(f"vllm:{name}", _AS_VLLM, labels=list(labels))
    family.add_metric(list(labels.values()), float(value))
    return family


def _counter(name: str, model: str, count: float) -> Metric:
    family = CounterMetricFamily(f"vllm:{name}", _AS_VLLM, labels=["model_name"])
    family.add_metric([model], count)
    return family
