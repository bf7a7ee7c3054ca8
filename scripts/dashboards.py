"""The panels of the dashboards: one table, and the two forms in which it is shown.

Grafana reads the chart's file, Cloud Monitoring the one that Terraform applies. Knows the metrics'
names only as text; a test compares them with the server's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

type Json = dict[str, Any]

# The same unit in Grafana's words and, as a code of UCUM, in Cloud Monitoring's.
_UNITS = {"short": "1", "percentunit": "10^2.%", "reqps": "1/s", "s": "s"}
_WIDTH, _HEIGHT = 12, 8


@dataclass(frozen=True, slots=True)
class Panel:
    """`queries` are expressions of PromQL, each with its legend in Grafana's form."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]


_PER_POD = "{{cluster}} {{pod}}"


def _first_token(quantile: float) -> str:
    bucket = "rate(antipode_time_to_first_token_seconds_bucket[5m])"
    return f"histogram_quantile({quantile}, sum by (le, cluster) ({bucket}))"


PANELS = (
    Panel("Requests waiting", "short", (("antipode_num_requests_waiting", _PER_POD),)),
    Panel("Requests running", "short", (("antipode_num_requests_running", _PER_POD),)),
    Panel("KV cache in use", "percentunit", (("antipode_kv_cache_usage_ratio", _PER_POD),)),
    Panel("Device busy", "percentunit", (("antipode_device_busy_ratio", _PER_POD),)),
    Panel(
        "Requests by outcome",
        "reqps",
        (
            (
                "sum by (cluster, outcome) (rate(antipode_requests_total[5m]))",
                "{{cluster}} {{outcome}}",
            ),
        ),
    ),
    Panel(
        "Time to first token, p50 and p99",
        "s",
        ((_first_token(0.99), "{{cluster}} p99"), (_first_token(0.5), "{{cluster}} p50")),
    ),
    Panel(
        "Serving model version",
        "short",
        (("antipode_model_version_serving", f"{_PER_POD} {{{{version}}}}"),),
    ),
    Panel(
        "Model swaps",
        "short",
        (("increase(antipode_model_swaps_total[1h])", "{{cluster}} {{result}}"),),
    ),
    Panel(
        "Load: running and waiting sequences, as a share of those that may run",
        "percentunit",
        (("antipode_load_ratio", _PER_POD),),
    ),
)


def grafana() -> str:
    dashboard = {
        "title": "Antipode",
        "uid": "antipode",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}]
        },
        "panels": [_grafana_panel(number, panel) for number, panel in enumerate(PANELS)],
    }
    return json.dumps(dashboard, indent=2) + "\n"


def _grafana_panel(number: int, panel: Panel) -> Json:
    return {
        "id": number + 1,
        "title": panel.title,
        "type": "timeseries",
        "gridPos": {
            "h": _HEIGHT,
            "w": _WIDTH,
            "x": number % 2 * _WIDTH,
            "y": number // 2 * _HEIGHT,
        },
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + i), "expr": query, "legendFormat": legend}
            for i, (query, legend) in enumerate(panel.queries)
        ],
    }


def cloud_monitoring() -> str:
    # A mosaic has 48 columns.
    dashboard = {
        "displayName": "Antipode",
        "mosaicLayout": {
            "columns": 4 * _WIDTH,
            "tiles": [_tile(number, panel) for number, panel in enumerate(PANELS)],
        },
    }
    return json.dumps(dashboard, indent=2) + "\n"


def _tile(number: int, panel: Panel) -> Json:
    width, height = 2 * _WIDTH, 2 * _HEIGHT
    return {
        "xPos": number % 2 * width,
        "yPos": number // 2 * height,
        "width": width,
        "height": height,
        "widget": {
            "title": panel.title,
            "xyChart": {
                "dataSets": [
                    {
                        "plotType": "LINE",
                        "timeSeriesQuery": {
                            "prometheusQuery": query,
                            "unitOverride": _UNITS[panel.unit],
                        },
                    }
                    for query, _ in panel.queries
                ],
            },
        },
    }
