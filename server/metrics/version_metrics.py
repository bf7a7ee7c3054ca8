"""The model's versions as metrics: the state of each, which one serves, how far one is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import get_args

from prometheus_client.core import GaugeMetricFamily, Metric

from server.link.frames import VersionState, VersionStatus


def version_families(statuses: Sequence[VersionStatus]) -> Iterator[Metric]:
    """A series for each version, and for each state it may be in; newest statuses come first."""
    state = GaugeMetricFamily(
        "antipode_model_version_state",
        "1 for the state a version of the model is in.",
        labels=["version", "state"],
    )
    serving = GaugeMetricFamily(
        "antipode_model_version_serving",
        "1 for the version that is served.",
        labels=["version"],
    )
    progress = GaugeMetricFamily(
        "antipode_model_version_load_ratio", "How far it is loaded, 0 to 1.", labels=["version"]
    )
    # A version that ended may be there again: what is true of it now comes last.
    newest = {status.version: status for status in reversed(statuses)}
    for version, status in newest.items():
        for name in get_args(VersionState):
            state.add_metric([version, name], float(name == status.state))
        serving.add_metric([version], float(status.is_serving))
        progress.add_metric([version], round(status.progress, 2))
    yield from (state, serving, progress)
