"""Asks an API server to admit what the charts render, for each of their case files.

Server-side apply, as Helm 4 does it, as a dry run: nothing is kept. Every field must be known to
the definition of its kind, and pods' templates must fit the namespace's Pod Security.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import yaml

from k8s.clusters.control_plane.custom_resources import KINDS
from k8s.clusters.control_plane.policies import RULES, refused
from k8s.clusters.host.api import Api, ApiError
from k8s.clusters.kubelet.images import CHECKOUT

type Object = dict[str, Any]
# An API server needs a moment to know a new policy.
_POLICY_SECONDS = 20.0
CHARTS = ("antipode", "antipode-gateway")
# Kubernetes' own kinds that the charts use, by API.
_BUILT_IN = {
    "api/v1": {
        "ConfigMap": "configmaps",
        "PersistentVolumeClaim": "persistentvolumeclaims",
        "Pod": "pods",
        "Service": "services",
        "ServiceAccount": "serviceaccounts",
    },
    "apis/apps/v1": {"Deployment": "deployments"},
    "apis/autoscaling/v2": {"HorizontalPodAutoscaler": "horizontalpodautoscalers"},
    "apis/networking.k8s.io/v1": {"NetworkPolicy": "networkpolicies"},
    "apis/policy/v1": {"PodDisruptionBudget": "poddisruptionbudgets"},
    "apis/rbac.authorization.k8s.io/v1": {"Role": "roles", "RoleBinding": "rolebindings"},
    "apis/resource.k8s.io/v1": {"ResourceClaimTemplate": "resourceclaimtemplates"},
}


def cases() -> list[tuple[str, Path]]:
    """Every chart's case files."""
    return [
        (chart, path)
        for chart in CHARTS
        for path in sorted((CHECKOUT / "helm" / chart / "ci").glob("*.yaml"))
    ]


def path_of(thing: Object, namespace: str) -> str:
    """Where the object is in the API. KeyError for a kind that the lab does not know."""
    version, kind = thing["apiVersion"], thing["kind"]
    place = f"namespaces/{namespace}/"
    root = "api/v1" if version == "v1" else f"apis/{version}"
    plural = _BUILT_IN.get(root, {}).get(kind)
    if plural is None:
        [custom] = [one for one in KINDS if (one.api_version, one.name) == (version, kind)]
        plural, place = custom.plural, place if custom.is_namespaced else ""
    return f"/{root}/{place}{plural}/{thing['metadata']['name']}"


async def render(helm: str, chart: str, values: Path, namespace: str) -> list[Object]:
    """What `helm template` gives, hooks included."""
    command = ["template", "prod", str(CHECKOUT / "helm" / chart), f"--values={values}"]
    process = await asyncio.create_subprocess_exec(
        *(helm, *command, f"--namespace={namespace}", "--kube-version=1.35.0"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, errors = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"helm template {chart} {values.name}: {errors.decode()}")
    return [one for one in yaml.safe_load_all(printed) if one]


async def unrefused(api: Api, namespace: str) -> list[str]:
    """The rules of GKE's controllers whose policy lets pass what they refuse."""
    found = []
    for rule in RULES:
        bad = refused(rule)
        deadline = time.monotonic() + _POLICY_SECONDS
        while not await _refuses(api, path_of(bad, namespace), bad, rule.why):
            if time.monotonic() > deadline:
                found.append(f"{rule.name}: nothing refuses an object that breaks it")
                break
            await asyncio.sleep(0.2)
    return found


async def _refuses(api: Api, path: str, thing: Object, why: str) -> bool:
    try:
        await api.apply(path, thing, dryRun="All")
    except ApiError as error:
        return why in str(error)
    return False


async def refusals(api: Api, objects: list[Object], namespace: str) -> list[str]:
    """What the API server says against the objects, warnings included; nothing if it admits them
    all. Where Pod Security refuses the pods of a Deployment, the Deployment gets a warning.
    """
    found = []
    for thing in objects:
        name = f"{thing['kind']} {thing['metadata']['name']}"
        api.warnings.clear()
        try:
            await api.apply(path_of(thing, namespace), thing, dryRun="All")
        except ApiError as error:
            found.append(f"{name}: {error}")
        found += [f"{name}: {warning}" for warning in api.warnings]
    return found


async def check(api: Api, helm: str, for_gke: str, for_others: str) -> dict[str, list[str]]:
    """The refusals of each case, by `chart/case`, in the namespace for its gateway."""
    found = {}
    for chart, path in cases():
        values = yaml.safe_load(path.read_text()) or {}
        namespace = for_others if values.get("flavour") == "envoy" else for_gke
        objects = await render(helm, chart, path, namespace)
        found[f"{chart}/{path.stem}"] = await refusals(api, objects, namespace)
    return found
