"""The results as a table of text, one row per scenario; broken promises below it."""

from __future__ import annotations

from typing import Any

from k8s.lab.report import Result

HEAD = ("scenario", "requests", "failed", "streams", "resumed", "broken", "lost", "twice")
TIMES = ("broke ms", "first ms", "after ms", "waves", "p99 before/during/after ms")


def table(results: list[Result]) -> str:
    rows = [(*HEAD, *TIMES), *map(_row, results)]
    lines = ["  ".join(f"{cell!s:>9}" for cell in row) for row in rows]
    lines += [f"  {r.name}: BROKEN: {promise}" for r in results for promise in r.broken_promises]
    return "\n".join(lines)


def _row(r: Result) -> tuple[Any, ...]:
    counts = (r.requests, r.failed, r.streams, r.resumed_streams, r.broken_streams)
    times = (r.breaking_ms, r.first_since_began_ms, r.first_answer_ms, r.slow_waves)
    p99 = "/".join(f"{phase.p99_ms:.0f}" for phase in (r.before, r.during, r.after))
    return (r.name, *counts, r.tokens_lost, r.tokens_duplicated, *times, p99)
