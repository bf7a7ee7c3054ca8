"""The report as one self-contained page: for each scenario a timeline of traffic and latency.

Plain HTML and SVG without scripts, so that it can be mailed and printed. Knows only the report's
JSON.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, LEFT, BOTTOM = 560, 150, 46, 22
COLORS = ("#2f6fb2", "#e08a2e")
_P99, _P50 = "#8a4fb5", "#3d9a8b"
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 32px auto; max-width: 1240px; color: #1c2733 }
h1 { font-size: 26px; margin: 0 } h2 { font-size: 18px; margin: 0 } p { margin: 4px 0 12px }
section { border-top: 1px solid #d5dde5; padding: 18px 0 }
.charts { display: flex; gap: 24px; flex-wrap: wrap } svg { background: #fff }
.facts { display: flex; gap: 22px; flex-wrap: wrap; margin: 6px 0 10px; color: #41505f }
.facts b { color: #1c2733 } .good { color: #23814a } .bad { color: #c0322b; font-weight: 600 }
text { font: 11px system-ui, sans-serif; fill: #5b6a78 } .key { display: inline-block; width: 11px;
height: 11px; border-radius: 2px; margin: 0 5px 0 14px }
"""


def write_page(report: Mapping[str, Any], folder: Path) -> Path:
    """Write index.html into `folder`."""
    path = folder / "index.html"
    path.write_text(page(report))
    return path


def write_picture(page_path: Path) -> Path | None:
    """A browser's image of the page, as PNG next to it; None if there is no Chromium."""
    browser = shutil.which("chromium")
    if browser is None:
        return None
    path = page_path.with_suffix(".png").absolute()
    height = 140 + 340 * page_path.read_text().count("<section>")
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
    size, target = f"--window-size=1280,{height}", f"--screenshot={path}"
    subprocess.run(
        [browser, *flags, size, target, page_path.absolute().as_uri()],
        stderr=subprocess.DEVNULL,
        timeout=60,
        check=True,
    )
    return path


def page(report: Mapping[str, Any]) -> str:
    scenarios = report["scenarios"]
    regions = sorted({r for s in scenarios for t in s["timeline"] for r in t["by_region"]})
    regions.sort(reverse=True)
    num_broken = sum(bool(s["broken_promises"]) for s in scenarios)
    verdict = (
        f'<span class="bad">{num_broken} of {len(scenarios)} scenarios broke a promise</span>'
        if num_broken
        else f'<span class="good">all {len(scenarios)} scenarios kept their promises</span>'
    )
    keys = "".join(
        f'<span class="key" style="background:{color}"></span>{escape(region)}'
        for region, color in zip(regions, COLORS, strict=False)
    )
    body = "".join(_scenario(scenario, regions) for scenario in scenarios)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Failover</title>'
        f"<style>{STYLE}</style><h1>Take a region down</h1>"
        f"<p>{escape(report['date'])}, {report['cpus']} CPUs, four servers of the tiny model: "
        f"{verdict} {keys}</p>{body}</html>"
    )


def _scenario(scenario: Mapping[str, Any], regions: Sequence[str]) -> str:
    promises = "".join(f'<p class="bad">{escape(p)}</p>' for p in scenario["broken_promises"])
    return (
        f"<section><h2>{escape(scenario['name'])}</h2><p>{escape(scenario['description'])}</p>"
        f'<div class="facts">{_facts(scenario)}</div>{promises}<div class="charts">'
        f"{_traffic(scenario, regions)}{_latency(scenario)}</div></section>"
    )


def _facts(scenario: Mapping[str, Any]) -> str:
    facts = {
        "requests": scenario["requests"],
        "failed": scenario["failed"],
        "streams": scenario["streams"],
        "resumed": scenario["resumed_streams"],
        "broken": scenario["broken_streams"],
        "tokens lost": scenario["tokens_lost"],
        "tokens twice": scenario["tokens_duplicated"],
        "broken within": _ms(scenario["breaking_ms"]),
        "first answer": f"{_ms(scenario['first_since_began_ms'])} after it began, "
        f"{_ms(scenario['first_answer_ms'])} after it was complete",
        "waves of slow answers": scenario["slow_waves"],
        "p99 before / during / after": " / ".join(
            f"{scenario[phase]['p99_ms']:.0f}" for phase in ("before", "during", "after")
        )
        + " ms",
    }
    if cores := scenario["cores_before"]:
        facts["cores busy before"] = ", ".join(f"{name} {busy}" for name, busy in cores.items())
    return "".join(f"<span>{name} <b>{value}</b></span>" for name, value in facts.items())


def _ms(milliseconds: float | None) -> str:
    return "none" if milliseconds is None else f"{milliseconds:.0f} ms"


def _traffic(scenario: Mapping[str, Any], regions: Sequence[str]) -> str:
    """Answers per second, stacked by region, with failures on top."""
    timeline = scenario["timeline"]
    stacks = [[second["by_region"].get(region, 0) for region in regions] for second in timeline]
    top = max([1, *(sum(stack) for stack in stacks)])
    step = (WIDTH - LEFT) / max(1, len(timeline))
    bars = []
    for number, (stack, second) in enumerate(zip(stacks, timeline, strict=True)):
        x, y = LEFT + number * step, float(HEIGHT - BOTTOM)
        for value, color in zip(stack, COLORS, strict=False):
            height = value / top * (HEIGHT - BOTTOM - 12)
            y -= height
            bars.append(_bar(x, y, step - 1, height, color))
        if second["failed"]:
            bars.append(_bar(x, 2, step - 1, 8, "#c0322b"))
    return _chart("HTTP answers per second", top, "".join(bars), scenario, step)


def _latency(scenario: Mapping[str, Any]) -> str:
    timeline = scenario["timeline"]
    top = max([1.0, *(second["p99_ms"] for second in timeline)])
    step = (WIDTH - LEFT) / max(1, len(timeline))
    lines = ""
    for name, color in (("p99_ms", _P99), ("p50_ms", _P50)):
        points = " ".join(
            f"{LEFT + (i + 0.5) * step:.1f},"
            f"{HEIGHT - BOTTOM - second[name] / top * (HEIGHT - BOTTOM - 12):.1f}"
            for i, second in enumerate(timeline)
        )
        lines += f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>'
    title = (
        f'latency of unary requests, <tspan fill="{_P99}">p99</tspan> and '
        f'<tspan fill="{_P50}">p50</tspan>, ms'
    )
    return _chart(title, top, lines, scenario, step)


def _chart(title: str, top: float, marks: str, scenario: Mapping[str, Any], step: float) -> str:
    base = HEIGHT - BOTTOM
    event = LEFT + scenario["event_second"] * step
    seconds = len(scenario["timeline"])
    ticks = "".join(
        f'<text x="{LEFT + tick * step:.1f}" y="{HEIGHT - 6}">{tick} s</text>'
        for tick in range(0, seconds, 5)
    )
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT + 18}" viewBox="0 -18 {WIDTH} {HEIGHT + 18}">'
        f'<text x="{LEFT}" y="-6">{title}</text><text x="4" y="18">{top:.0f}</text>'
        f'<text x="30" y="{base}">0</text>{marks}'
        f'<line x1="{LEFT}" y1="{base}" x2="{WIDTH}" y2="{base}" stroke="#9aa8b5"/>'
        f'<line x1="{event:.1f}" y1="0" x2="{event:.1f}" y2="{base}" stroke="#1c2733" '
        f'stroke-dasharray="4 3"/><text x="{event + 4:.1f}" y="10">{escape(scenario["name"])}'
        f"</text>{ticks}</svg>"
    )


def _bar(x: float, y: float, width: float, height: float, color: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{color}"/>'
    )
