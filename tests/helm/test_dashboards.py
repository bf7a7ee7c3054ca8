"""Both dashboards show the same: Grafana's in the chart, and Cloud Monitoring's in Terraform."""

from __future__ import annotations

import json

from scripts import dashboards

GRAFANA = json.loads(dashboards.grafana())["panels"]
CLOUD = json.loads(dashboards.cloud_monitoring())["mosaicLayout"]


def test_both_have_the_same_titles_and_queries():
    in_grafana = [(p["title"], [t["expr"] for t in p["targets"]]) for p in GRAFANA]
    charts = [(tile["widget"]["title"], tile["widget"]["xyChart"]) for tile in CLOUD["tiles"]]
    in_cloud = [
        (title, [one["timeSeriesQuery"]["prometheusQuery"] for one in chart["dataSets"]])
        for title, chart in charts
    ]
    assert in_cloud == in_grafana


def test_no_tile_lies_on_another_or_outside():
    cells = [
        (x, y)
        for tile in CLOUD["tiles"]
        for x in range(tile["xPos"], tile["xPos"] + tile["width"])
        for y in range(tile["yPos"], tile["yPos"] + tile["height"])
    ]
    assert len(cells) == len(set(cells))
    assert all(0 <= x < CLOUD["columns"] for x, _ in cells)
