"""Definitions of the custom resources that the charts use or must not, for a cluster of the lab.

Published definitions come from the folder that CRD_SCHEMAS names. A kind that it does not define,
and one whose published definition is older than GKE's, gets a definition without a schema: then the
API server admits any content. `open_kinds` says which.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

type Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    group: str
    version: str
    name: str
    plural: str
    is_namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}"

    @property
    def definition(self) -> str:
        return f"{self.plural}.{self.group}"


KINDS = (
    Kind("autoscaling.gke.io", "v1beta1", "AutoscalingMetric", "autoscalingmetrics"),
    Kind("cloud.google.com", "v1", "ComputeClass", "computeclasses", is_namespaced=False),
    Kind("gateway.envoyproxy.io", "v1alpha1", "Backend", "backends"),
    Kind("gateway.envoyproxy.io", "v1alpha1", "BackendTrafficPolicy", "backendtrafficpolicies"),
    Kind("gateway.networking.k8s.io", "v1", "Gateway", "gateways"),
    Kind("gateway.networking.k8s.io", "v1", "GRPCRoute", "grpcroutes"),
    Kind("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes"),
    Kind("inference.networking.k8s.io", "v1", "InferencePool", "inferencepools"),
    Kind("leaderworkerset.x-k8s.io", "v1", "LeaderWorkerSet", "leaderworkersets"),
    Kind("llm-d.ai", "v1alpha2", "InferenceObjective", "inferenceobjectives"),
    Kind("monitoring.googleapis.com", "v1", "GlobalRules", "globalrules", is_namespaced=False),
    Kind("monitoring.googleapis.com", "v1", "PodMonitoring", "podmonitorings"),
    Kind("monitoring.googleapis.com", "v1", "Rules", "rules"),
    Kind("net.gke.io", "v1", "ServiceExport", "serviceexports"),
    Kind("networking.gke.io", "v1", "GCPBackendPolicy", "gcpbackendpolicies"),
    Kind("networking.gke.io", "v1", "HealthCheckPolicy", "healthcheckpolicies"),
)
# Its published definition lacks balancingMode, customMetrics and other fields that GKE documents.
_OUTDATED = ("gcpbackendpolicies.networking.gke.io",)


def published(folder: Path | None) -> list[Object]:
    """The definitions of the folder that may be used; none without a folder."""
    if folder is None:
        return []
    found = [
        one
        for path in sorted(folder.rglob("*.yaml"))
        for one in yaml.safe_load_all(path.read_text())
        if one and one.get("kind") == "CustomResourceDefinition"
    ]
    return [one for one in found if one["metadata"]["name"] not in _OUTDATED]


def open_kinds(definitions: list[Object]) -> list[Kind]:
    """The charts' kinds that these definitions do not define."""
    known = {one["metadata"]["name"] for one in definitions}
    return [kind for kind in KINDS if kind.definition not in known]


def open_definition(kind: Kind) -> Object:
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {
        "name": kind.version,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": kind.definition,
            # Groups of Kubernetes itself must say who approved a definition.
            "annotations": {"api-approved.kubernetes.io": "unapproved, only for the lab"},
        },
        "spec": {
            "group": kind.group,
            "scope": "Namespaced" if kind.is_namespaced else "Cluster",
            "names": {
                "kind": kind.name,
                "plural": kind.plural,
                "singular": kind.name.lower(),
                "listKind": f"{kind.name}List",
            },
            "versions": [version],
        },
    }
