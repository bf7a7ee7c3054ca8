"""Checks every rule against a server, and reports rule by rule."""

from __future__ import annotations

from collections.abc import Iterable

import httpx

from tests.conformance import load_rules, metric_rules, probe_rules, protocol_rules
from tests.conformance.rules import RULES, Result, Rule, Target, check

_MODULES = (metric_rules, load_rules, protocol_rules, probe_rules)


def rules() -> list[Rule]:
    """All rules, in the order in which they are checked: a drain ends the server."""
    assert _MODULES
    return sorted(RULES, key=lambda one: one.group == "drain")


async def find(http: str, grpc: str, pid: int = 0) -> Target:
    """The server at these addresses, with the name of its model."""
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        models = (await client.get(f"{http.rstrip('/')}/v1/models")).raise_for_status().json()
    return Target(http.rstrip("/"), grpc, models["data"][0]["id"], pid)


async def run(target: Target, chosen: Iterable[Rule]) -> list[Result]:
    return [await check(one, target) for one in chosen]


def report(results: Iterable[Result]) -> str:
    """A line per rule, and the counts."""
    lines, found = [], list(results)
    for result in found:
        timed = " (a figure of this machine)" if result.rule.is_timed else ""
        lines.append(f"{result.outcome}  {result.rule.group}: {result.rule.sentence}{timed}")
        lines.append(f"      {result.detail}  [{result.rule.source}]")
    counts = {name: sum(r.outcome == name for r in found) for name in ("pass", "FAIL", "skip")}
    lines.append(", ".join(f"{count} {name}" for name, count in counts.items()))
    return "\n".join(lines)
