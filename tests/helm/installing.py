"""Helm's commands as an operator gives them, into a stand-in for a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from helm_python import Config

from tests.helm.charts import HELM
from tests.helm.fake_api import serving
from tests.helm.fake_cluster import FakeCluster

type Values = dict[str, Any]

CHART, RELEASE, NAMESPACE = HELM / "antipode", "prod", "llm"


@contextmanager
def helm(cluster: FakeCluster) -> Iterator[Config]:
    # Releases are kept by Helm, not by the cluster: Helm writes those in a protocol of its own.
    with (
        serving(cluster) as kubeconfig,
        Config(
            kubeconfig_content=kubeconfig, namespace=NAMESPACE, storage_driver="memory", qps=1000
        ) as config,
    ):
        yield config


def install(config: Config, values: Values, chart: str = "antipode") -> dict[str, Any]:
    return config.install(HELM / chart, RELEASE, values, namespace=NAMESPACE, create_namespace=True)


def set_version(config: Config, version: str) -> None:
    """helm upgrade --reuse-values --set-string model.version=..."""
    values = {"model": {"version": version}}
    config.upgrade(CHART, RELEASE, values, reuse_values=True, namespace=NAMESPACE)
