"""What a call asks of the queue, by its headers: priority, objective, fairness and latency.

Gateways and their endpoint pickers name these headers; each has an old spelling, which counts where
the new one is absent. Time limits only ever bound their own call, so they always count. A priority
is at the cost of others: it counts only where the server trusts its callers' headers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from server.api.requests.validation import invalid
from server.config.priorities import read_priority

OBJECTIVE_HEADERS = ("x-llm-d-inference-objective", "x-gateway-inference-objective")
PRIORITY_HEADER = "x-llm-d-request-priority"
TIMEOUT_HEADER = "x-request-timeout-ms"
# Envoy's, which sends 0 where there is no deadline.
ENVOY_TIMEOUT_HEADER = "x-envoy-expected-rq-timeout-ms"
TTFT_HEADERS = ("x-llm-d-slo-ttft-ms", "x-slo-ttft-ms")
TPOT_HEADERS = ("x-llm-d-slo-tpot-ms", "x-slo-tpot-ms")
MAX_DIGITS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Objectives:
    """Times are seconds; None where the call sets none.

    `priority` below zero may be shed and preempted. `ttft_seconds` and `tpot_seconds` are what the
    caller hopes for: time to the first token, and per token after it.
    """

    priority: int = 0
    timeout_seconds: float | None = None
    ttft_seconds: float | None = None
    tpot_seconds: float | None = None


def read_objectives(
    headers: Mapping[str, str], named: Mapping[str, int], *, is_trusted: bool
) -> Objectives:
    """`named` has the priority of each objective. A gateway's header that is no number counts as
    absent; the client's own time limit is the business of `check_timeout`.
    """
    return Objectives(
        priority=_priority(headers, named) if is_trusted else 0,
        timeout_seconds=_least(_seconds(headers, TIMEOUT_HEADER, ENVOY_TIMEOUT_HEADER)),
        ttft_seconds=_least(_seconds(headers, *TTFT_HEADERS)[:1]),
        tpot_seconds=_least(_seconds(headers, *TPOT_HEADERS)[:1]),
    )


def check_timeout(headers: Mapping[str, str]) -> None:
    """ApiError (invalid request) for a time limit that would not be kept, because it is none."""
    value = headers.get(TIMEOUT_HEADER)
    if value is not None and not _seconds(headers, TIMEOUT_HEADER):
        raise invalid(
            f"{TIMEOUT_HEADER} must be a whole number of milliseconds from 1 to"
            f" {10**MAX_DIGITS - 1}"
        )


def _priority(headers: Mapping[str, str], named: Mapping[str, int]) -> int:
    """An objective that is known says the priority, else the priority's own header does."""
    for header in OBJECTIVE_HEADERS:
        if name := headers.get(header, "").strip():
            if name in named:
                return named[name]
            break
    return read_priority(headers.get(PRIORITY_HEADER, "")) or 0


def _seconds(headers: Mapping[str, str], *names: str) -> list[float]:
    """The values of those headers that hold a number of milliseconds above zero."""
    found = []
    for name in names:
        value = headers.get(name, "").strip()
        is_number = value.isascii() and value.isdecimal() and len(value) <= MAX_DIGITS
        if is_number and int(value):
            found.append(int(value) / 1000)
    return found


def _least(values: list[float]) -> float | None:
    return min(values, default=None)
