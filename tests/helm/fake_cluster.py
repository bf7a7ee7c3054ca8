"""Stands in for a cluster: keeps objects, and says what kinds there are.

Enough for Helm's own engine to install, test, upgrade, roll back and uninstall over `fake_api`. It
schedules nothing and runs nothing: what a kubelet would do is left to the test, which is told of
each object that is kept. No cluster's admission, quota or garbage collection is in it.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

type Object = dict[str, Any]

# What a GKE cluster serves once the fleet's script has run, by group and version.
NAMESPACED = {
    "v1": ("ConfigMap", "PersistentVolumeClaim", "Pod", "Service", "ServiceAccount"),
    "apps/v1": ("Deployment",),
    "autoscaling/v2": ("HorizontalPodAutoscaler",),
    "autoscaling.gke.io/v1beta1": ("AutoscalingMetric",),
    "gateway.networking.k8s.io/v1": ("Gateway", "HTTPRoute"),
    "inference.networking.k8s.io/v1": ("InferencePool",),
    "leaderworkerset.x-k8s.io/v1": ("LeaderWorkerSet",),
    "llm-d.ai/v1alpha2": ("InferenceObjective",),
    "monitoring.googleapis.com/v1": ("PodMonitoring", "Rules"),
    "net.gke.io/v1": ("ServiceExport",),
    "networking.gke.io/v1": ("GCPBackendPolicy", "HealthCheckPolicy"),
    "networking.k8s.io/v1": ("NetworkPolicy",),
    "policy/v1": ("PodDisruptionBudget",),
    "rbac.authorization.k8s.io/v1": ("Role", "RoleBinding"),
    "resource.k8s.io/v1": ("ResourceClaimTemplate",),
}
OF_THE_CLUSTER = {
    "v1": ("Namespace",),
    "apiextensions.k8s.io/v1": ("CustomResourceDefinition",),
    "cloud.google.com/v1": ("ComputeClass",),
    "monitoring.googleapis.com/v1": ("GlobalRules",),
}


class Key(NamedTuple):
    """Where an object is kept. `group` is "" for the core's; so is `namespace` for none."""

    group: str
    plural: str
    namespace: str
    name: str


class FakeCluster:
    """Objects by key. `on_change` is called with each that a caller creates or changes.

    `without` names groups and versions that it does not know, as where nobody installed them.
    """

    def __init__(
        self, on_change: Callable[[Object], None] = lambda _: None, without: tuple[str, ...] = ()
    ) -> None:
        self.objects: dict[Key, Object] = {}
        self.versions = sorted({*NAMESPACED, *OF_THE_CLUSTER} - {*without})
        self._on_change = on_change
        self._revisions = itertools.count(1)
        self._lock = threading.RLock()

    def kinds(self, group_version: str) -> dict[str, bool]:
        """Kinds of a group and version, and whether they are in namespaces."""
        found = dict.fromkeys(NAMESPACED.get(group_version, ()), True)
        return found | dict.fromkeys(OF_THE_CLUSTER.get(group_version, ()), False)

    def find(self, kind: str, name: str) -> Object:
        (found,) = [one for one in self.objects.values() if _called(one) == (kind, name)]
        return found

    def specs(self) -> dict[tuple[str, str], Object]:
        """What was asked for, by kind and name, without what a server adds to it."""
        return {
            _called(one): {part: one[part] for part in one if part not in ("metadata", "status")}
            for one in self.objects.values()
        }

    def keep(self, key: Key, thing: Object) -> Object:
        """Create or replace an object, whole: nobody but Helm applies here."""
        with self._lock:
            before = self.objects.get(key, {})
            meta = thing["metadata"]
            meta["resourceVersion"] = str(next(self._revisions))
            meta["uid"] = before.get("metadata", {}).get("uid", f"uid-{meta['resourceVersion']}")
            self.objects[key] = thing
        self._on_change(thing)
        return thing

    def take(self, key: Key) -> Object | None:
        with self._lock:
            return self.objects.pop(key, None)

    def select(self, key: Key, labels: dict[str, str], name: str) -> list[Object]:
        """Objects of a key's resource and namespace; `name` "" is any."""
        with self._lock:
            return [
                one
                for here, one in self.objects.items()
                if here[:2] == key[:2]
                and key.namespace in ("", here.namespace)
                and name in ("", here.name)
                and labels.items() <= one["metadata"].get("labels", {}).items()
            ]


def plural(kind: str) -> str:
    """As Kubernetes names a kind's resource."""
    name = kind.lower()
    if name.endswith("y"):
        return name[:-1] + "ies"
    if name.endswith("ss"):
        return name + "es"
    return name if name.endswith("s") else name + "s"


def _called(thing: Object) -> tuple[str, str]:
    return thing["kind"], thing["metadata"]["name"]
