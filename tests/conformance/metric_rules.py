"""Rules of those that scrape `/metrics`: endpoint pickers, autoscalers, Prometheus.

A picker scrapes each server every 50 ms with the parser of Prometheus' text format, and reads the
first series of a family.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.conformance.calls import completion, http
from tests.conformance.rules import NotApplicableError, Target, require, rule

_PICKER = "Gateway API inference extension, model server protocol"
_GAUGES = ("vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc")
_INFO = "vllm:cache_config_info"
_AUTOSCALING = (
    "vllm:time_to_first_token_seconds",
    "vllm:request_time_per_output_token_seconds",
    "vllm:request_queue_time_seconds",
    "vllm:prefix_cache_queries",
    "vllm:prefix_cache_hits",
)
_FRESH_SECONDS = 0.1
_RENDER_SECONDS = 0.001
_NUM_SCRAPES = 200
_NUM_REQUESTS = 256
_TYPE = "application/openmetrics-text"


async def _families(target: Target) -> dict[str, Metric]:
    async with http(target) as client:
        answer = await client.get("/metrics")
    require(answer.status_code == 200, f"status {answer.status_code}")
    return {family.name: family for family in text_string_to_metric_families(answer.text)}


@rule("metrics", "without an Accept header, /metrics is text format 0.0.4", _PICKER)
async def text_format(target: Target) -> str:
    async with http(target) as client:
        found = (await client.get("/metrics")).headers["content-type"]
    require(found.startswith("text/plain") and "version=0.0.4" in found, found)
    return found


@rule("metrics", "the families that pickers read are there, gauges with one series each", _PICKER)
async def picker_families(target: Target) -> str:
    families = await _families(target)
    for name in _GAUGES:
        require(name in families, f"{name} is missing")
        require(families[name].type == "gauge", f"{name} is a {families[name].type}")
        series = families[name].samples
        require(len(series) == 1, f"{name} has {len(series)} series; pickers read the first")
    usage = families[_GAUGES[2]].samples[0].value
    require(0 <= usage <= 1, f"{_GAUGES[2]} is {usage}, no fraction")
    return ", ".join(_GAUGES)


@rule("metrics", "the shape of the KV cache is in labels that pickers read", _PICKER)
async def cache_shape(target: Target) -> str:
    families = await _families(target)
    require(_INFO in families, f"{_INFO} is missing")
    labels = families[_INFO].samples[0].labels
    for name in ("block_size", "num_gpu_blocks"):
        require(labels.get(name, "").isdecimal(), f"{_INFO} has {name}={labels.get(name)!r}")
    return f"block_size {labels['block_size']}, num_gpu_blocks {labels['num_gpu_blocks']}"


@rule(
    "metrics",
    "what predicted-latency routing and autoscalers read has vLLM's names",
    "vLLM's metrics; llm-d's latency predictor; HPA examples",
)
async def autoscaling_families(target: Target) -> str:
    families = await _families(target)
    missing = [name for name in _AUTOSCALING if name not in families]
    require(not missing, f"missing: {', '.join(missing)}")
    return ", ".join(_AUTOSCALING)


@rule("metrics", "no name or label is outside the legacy alphabet of Prometheus", _PICKER)
async def legacy_names(target: Target) -> str:
    families = await _families(target)
    wrong = [name for name in families if not name.replace(":", "_").isidentifier()]
    require(not wrong, f"{wrong[:3]}")
    return f"{len(families)} families"


@rule(
    "metrics",
    "a running request shows within 100 ms of its first token",
    _PICKER,
    is_timed=True,
)
async def freshness(target: Target) -> str:
    async with http(target) as client:
        body = completion(target, max_tokens=200, stream=True, ignore_eos=True)
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            answer.raise_for_status()
            chunks = answer.aiter_raw()
            await anext(chunks)
            first = time.monotonic()
            reading = asyncio.ensure_future(_drain(chunks))
            while not (await _families(target))[_GAUGES[1]].samples[0].value:
                if reading.done():
                    raise NotApplicableError("the request ended before it was seen")
            seconds = time.monotonic() - first
            reading.cancel()
    require(seconds <= _FRESH_SECONDS, f"{seconds * 1000:.0f} ms, the scrapes' own time included")
    return f"{seconds * 1000:.0f} ms, the scrapes' own time included"


async def _drain(chunks: object) -> None:
    async for _ in chunks:  # type: ignore[attr-defined]
        pass


@rule(
    "metrics",
    "next to 256 requests a scrape takes less than 1 ms more than a probe",
    _PICKER,
    is_timed=True,
)
async def scrape_time(target: Target) -> str:
    async with http(target) as client, _load(target):
        running = (await _families(target))[_GAUGES[1]].samples[0].value
        times: dict[str, list[float]] = {"/livez": [], "/metrics": []}
        for _ in range(_NUM_SCRAPES):
            for path, seconds in times.items():
                begin = time.monotonic()
                await client.get(path)
                seconds.append(time.monotonic() - begin)
    probe, scrape = map(statistics.median, times.values())
    found = f"median {scrape * 1000:.2f} ms, {(scrape - probe) * 1000:.2f} ms more than /livez"
    require(scrape - probe < _RENDER_SECONDS, found)
    return f"{found}, {running:.0f} of {_NUM_REQUESTS} requests running"


@asynccontextmanager
async def _load(target: Target) -> AsyncIterator[None]:
    """Keep as many requests under way as the server takes."""
    body = completion(target, max_tokens=1000, stream=True, ignore_eos=True)
    async with http(target) as client:
        tasks = [
            asyncio.create_task(client.post("/v1/completions", json=body))
            for _ in range(_NUM_REQUESTS)
        ]
        while not (await _families(target))[_GAUGES[1]].samples[0].value:
            if all(task.done() for task in tasks):
                raise NotApplicableError("the requests ended before they were seen")
            await asyncio.sleep(_FRESH_SECONDS)
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@rule("metrics", "on request, /metrics is OpenMetrics", "OpenMetrics 1.0")
async def open_metrics(target: Target) -> str:
    async with http(target) as client:
        answer = await client.get("/metrics", headers={"accept": f"{_TYPE}; version=1.0.0"})
    require(answer.headers["content-type"].startswith(_TYPE), answer.headers["content-type"])
    families = list(openmetrics.text_string_to_metric_families(answer.text))
    exemplars = sum(s.exemplar is not None for family in families for s in family.samples)
    return f"{len(families)} families, {exemplars} exemplars"
