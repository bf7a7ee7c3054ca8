"""Draws throughput against latency, a line per server and a point per load.

Needs matplotlib. Knows neither servers nor how they were loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.load.summary import Summary

# Panels: the latency's name, and its percent.
_PANELS = (("ttft", 50), ("tpot", 50), ("itl", 99))

# The summaries of each server by load, such as "8 streams", one per round.
type Results = Mapping[str, Mapping[str, Sequence[Summary]]]


def draw(results: Results, title: str, path: Path) -> None:
    """Write a PNG with a panel for each latency, medians of the rounds."""
    # Imported here: that takes a second, and most who import this draw nothing.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(_PANELS), 4), layout="constrained")
    figure.suptitle(title)
    for axes, (latency, percent) in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
        for name, loads in results.items():
            points = [_point(rounds, latency, percent) for rounds in loads.values()]
            axes.plot(*zip(*points, strict=True), marker="o", label=name)
            for load, point in zip(loads, points, strict=True):
                axes.annotate(load, point, fontsize=7, xytext=(3, 3), textcoords="offset points")
        axes.set_xlabel(f"{latency.upper()} p{percent}, ms")
        axes.set_ylabel("tokens/s")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.legend()
    figure.savefig(path, dpi=120)


def _point(rounds: Sequence[Summary], latency: str, percent: int) -> tuple[float, float]:
    middle = sorted(rounds, key=lambda each: each.tokens_per_second)[len(rounds) // 2]
    return getattr(middle, latency).get(percent, 0.0) * 1e3, middle.tokens_per_second
