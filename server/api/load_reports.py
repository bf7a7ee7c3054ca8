"""The server's load as ORCA reports it, from the engine's newest pulse: as message, JSON and text.

Consumers discard a whole report for one bad value, so every number is finite and at least 0, no
name comes twice, and nothing is in it that the protocol does not have. Knows no transport.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from server.api.requests.generation import Usage
from server.link.client import EngineClient
from server.link.status import EngineLoad
from server.pb.xds.data.orca.v3.orca_load_report_pb2 import OrcaLoadReport

type Format = Literal["json", "text", "bin"]


class LoadReports:
    """One per API process. There is no report until the engine serves."""

    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine
        self._load: EngineLoad | None = None
        self._cached = b""

    def message(self) -> OrcaLoadReport | None:
        """The load without a request's costs; None while there is no load."""
        load = self._newest()
        return None if load is None else report(load)

    def binary(self, usage: Usage | None = None) -> bytes:
        """The serialized report, with the costs of a request; empty while there is no load."""
        load = self._newest()
        if load is None:
            return b""
        if load is not self._load:
            self._load, self._cached = load, report(load).SerializeToString()
        # Serialized messages that follow each other are one message.
        return self._cached + (b"" if usage is None else _costs(usage).SerializeToString())

    def header(self, form: Format, usage: Usage | None = None) -> str:
        """The value of the header `endpoint-load-metrics`; empty while there is no load."""
        data = self.binary(usage)
        return _HEADERS[form](data) if data else ""

    def load(self) -> EngineLoad | None:
        """The engine's own numbers; None while there are none."""
        return self._newest()

    def _newest(self) -> EngineLoad | None:
        return self._engine.pulse.load if self._engine.pulse else None


def report(load: EngineLoad) -> OrcaLoadReport:
    """The report of a load."""
    return OrcaLoadReport(
        application_utilization=application_utilization(load),
        mem_utilization=_ratio(load.hbm_usage or 0.0),
        rps_fractional=_number(load.requests_per_second),
        eps=_number(load.errors_per_second),
        utilization={name: _ratio(value) for name, value in _utilization(load)},
        named_metrics={name: _number(value) for name, value in _named_metrics(load)},
    )


def application_utilization(load: EngineLoad) -> float:
    """How full the server is: the KV cache, or sequences running and waiting per slot; 1 is full.

    More than 1 is a queue, so that of two full servers the one with the shorter queue gets more.
    The sequences are a mean over the seconds that the rates are of: consumers divide one by the
    other, and ignore a report of 0.
    """
    return max(_ratio(load.kv_cache_usage), _number(_part(load.mean_wanted, load.num_slots)))


def _utilization(load: EngineLoad) -> Iterator[tuple[str, float]]:
    yield "kv_cache", load.kv_cache_usage
    yield "slots", _part(load.num_running, load.num_slots)
    yield "queue", _part(load.num_waiting, load.max_queue_len)
    yield "device_busy", load.device_busy
    if load.duty_cycle is not None:
        yield "tpu_duty_cycle", load.duty_cycle


def _named_metrics(load: EngineLoad) -> Iterator[tuple[str, float]]:
    """By vLLM's names."""
    yield "kv_cache_usage_perc", load.kv_cache_usage
    yield "num_requests_running", load.num_running
    yield "num_requests_waiting", load.num_waiting


def _costs(usage: Usage) -> OrcaLoadReport:
    return OrcaLoadReport(
        request_cost={
            "prompt_tokens": usage.num_prompt_tokens,
            "completion_tokens": usage.num_generated_tokens,
            "cached_tokens": usage.num_cached_tokens,
        }
    )


def _part(count: float, limit: float) -> float:
    return count / limit if limit else 0.0


def _number(value: float) -> float:
    """Finite and at least 0. Six decimals are enough for any weight."""
    return round(max(0.0, value), 6) if math.isfinite(value) else 0.0


def _ratio(value: float) -> float:
    return min(1.0, _number(value))


def _json(data: bytes) -> str:
    return f"JSON {json.dumps(dict(_fields(OrcaLoadReport.FromString(data))))}"


def _text(data: bytes) -> str:
    """The protocol has no costs of requests in this form."""
    names = {
        f"{name}.{key}" if key else name: value
        for name, entry in _fields(OrcaLoadReport.FromString(data))
        if name != "request_cost"
        for key, value in (entry.items() if isinstance(entry, dict) else [("", entry)])
    }
    return "TEXT " + ", ".join(f"{name}={value:.6f}" for name, value in names.items())


def _binary(data: bytes) -> str:
    return f"BIN {base64.b64encode(data).decode()}"


_HEADERS: Mapping[Format, Callable[[bytes], str]] = {"json": _json, "text": _text, "bin": _binary}


def _fields(message: OrcaLoadReport) -> Iterator[tuple[str, float | dict[str, float]]]:
    for field, value in message.ListFields():
        yield field.name, dict(value) if field.is_repeated else value
