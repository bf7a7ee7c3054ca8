"""Renders the charts by Helm's own engine and reads the objects out of it.

The same values are rendered once per session. Objects are read anew for each caller, because tests
change them, and by libyaml, which takes a tenth of the time of Python's own reader.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml
from helm_python import _native

PROJECT = Path(__file__).parents[2]
HELM = PROJECT / "helm"
CHARTS = ("antipode", "antipode-gateway")
CASES = [(chart, path.stem) for chart in CHARTS for path in sorted((HELM / chart / "ci").iterdir())]


def case_values(chart: str, case: str) -> dict[str, Any]:
    return yaml.safe_load((HELM / chart / "ci" / f"{case}.yaml").read_text())


BASE = case_values("antipode", "v6e-2x2")
SEVERAL = case_values("antipode", "v6e-4x4")
GATEWAY = case_values("antipode-gateway", "gke")


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Values with dotted names changed: {"model.version": "2"}."""
    values = json.loads(json.dumps(values))
    for name, value in changes.items():
        *folders, last = name.split(".")
        place = values
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = value
    return values


def render_files(
    chart: str, values: dict[str, Any], release: str = "prod", namespace: str = "llm"
) -> dict[str, str]:
    """Each template's text, of a release on Kubernetes 1.34."""
    return dict(_render(chart, json.dumps(values), release, namespace))


@cache
def _render(chart: str, values: str, release: str, namespace: str) -> dict[str, str]:
    loaded = helm_python.Chart.load(HELM / chart)
    loaded.validate_schema(json.loads(values))
    options = {"name": release, "namespace": namespace, "kube_version": "v1.34.2"}
    # The public call takes no version of Kubernetes; the library under it does.
    return json.loads(
        _native.call_string("helm_render", loaded._raw(), values, json.dumps(options))
    )


def render(
    chart: str, values: dict[str, Any], release: str = "prod", namespace: str = "llm"
) -> list[dict[str, Any]]:
    """Every object."""
    return list(_objects(render_files(chart, values, release, namespace)))


def _objects(files: dict[str, str]) -> Iterator[dict[str, Any]]:
    for name, text in sorted(files.items()):
        if name.endswith(".yaml"):
            yield from (one for one in read_all(text) if one)


def read_all(text: str) -> Iterator[Any]:
    """Every document of a text, read by libyaml."""
    return yaml.load_all(text, Loader=yaml.CSafeLoader)


def find(objects: list[dict[str, Any]], kind: str, name: str = "") -> dict[str, Any]:
    """The one object of that kind, or of that kind and name."""
    (found,) = [
        one
        for one in objects
        if one["kind"] == kind and (not name or one["metadata"]["name"] == name)
    ]
    return found


def pods_of(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Templates of the server's pods: one, or a leader's and a follower's with LWS's own labels."""
    for one in objects:
        if one["kind"] == "Deployment" and one["metadata"]["name"] == "prod":
            return [one["spec"]["template"]]
    group = find(objects, "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
    pods = [group["leaderTemplate"], group["workerTemplate"]]
    for index, pod in enumerate(pods):
        labels = {"name": "prod", "group-index": "0", "worker-index": str(index)}
        for label, value in labels.items():
            pod["metadata"]["labels"][f"leaderworkerset.sigs.k8s.io/{label}"] = value
    return pods
