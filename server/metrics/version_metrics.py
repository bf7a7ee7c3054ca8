"""The model's versions as metrics: the state of each, its load progress, and which one serves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import get_args

from prometheus_client.core import GaugeMetricFamily, Metric

from server.link.status import VersionState, VersionStatus


def version_metrics(statuses: Sequence[VersionStatus]) -> Iterator[Metric]:
    """One series per version, and per state of a version. The newest statuses come first."""
    state = GaugeMetricFamily(
        "antipode_model_version_state",
        "1 for the current state of a model version.",
        labels=["version", "state"],
    )
    serving = GaugeMetricFamily(
        "antipode_model_version_serving",
        "1 for the model version that is served.",
        labels=["version"],
    )
    progress = GaugeMetricFamily(
        "antipode_model_version_load_ratio", "Load progress, 0 to 1.", labels=["version"]
    )
    # A version that ended may have been loaded again: its newest status must be written last.
    newest = {status.version: status for status in reversed(statuses)}
    for version, status in newest.items():
        for name in get_args(VersionState):
            state.add_metric([version, name], float(name == status.state))
        serving.add_metric([version], float(status.is_serving))
        progress.add_metric([version], round(status.progress, 2))
    yield from (state, serving, progress)
