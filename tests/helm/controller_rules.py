"""What GKE's controllers refuse or drop although every schema takes it: a table, and its use.

Each row names a kind, a place in its objects and a JSON schema for what is found there. `breaks` is
a value that the row must refuse. Knows no chart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jsonschema

type Json = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """`path` is dotted; `[]` after a name means every item. A place that is not there is fine."""

    kind: str
    path: str
    schema: dict[str, Json]
    breaks: Json
    why: str

    def __str__(self) -> str:
        return f"{self.kind} {self.path}"


_PLAIN_NAMES = {"propertyNames": {"pattern": "^[A-Za-z0-9_-]+$"}}
_DOTTED = {"app.kubernetes.io/name": "antipode"}
_BALANCED = {
    "required": ["gauge"],
    "properties": {"gauge": {"required": ["loadBalancing"]}},
}
_RATIO = {"pattern": "_ratio$"}
_QUEUE = "antipode_num_requests_waiting"

RULES = (
    Rule(
        kind="HTTPRoute",
        path="spec.rules[]",
        schema={"not": {"required": ["timeouts"]}},
        breaks={"timeouts": {"request": "600s"}},
        why="GKE's Gateway controller answers Accepted=False, UnsupportedValue, and routes nothing",
    ),
    Rule(
        kind="AutoscalingMetric",
        path="spec.metrics[].pod.selector.matchLabels",
        schema=_PLAIN_NAMES,
        breaks=_DOTTED,
        why="label names of a selector are letters, digits, - and _ only",
    ),
    Rule(
        kind="AutoscalingMetric",
        path="spec.selector.matchLabels",
        schema=_PLAIN_NAMES,
        breaks=_DOTTED,
        why="label names of a selector are letters, digits, - and _ only",
    ),
    Rule(
        kind="AutoscalingMetric",
        path="spec.metrics[].pod.containers[].metrics[].gauge",
        schema={
            "if": {"required": ["loadBalancing"]},
            "then": {"properties": {"prometheusMetricName": _RATIO}},
        },
        breaks={"prometheusMetricName": _QUEUE, "loadBalancing": {"enabled": True}},
        why="a load balancer reads gauges from 0 to 1 only",
    ),
    Rule(
        kind="AutoscalingMetric",
        path="spec.metrics[].pod.containers[].metrics",
        schema={"contains": _BALANCED, "minContains": 0, "maxContains": 2},
        breaks=[{"gauge": {"loadBalancing": {"enabled": True}}}] * 3,
        why="20 metrics per cluster reach load balancers; a release takes two",
    ),
    Rule(
        kind="AutoscalingMetric",
        path="spec.endpoints[].metrics[].name",
        schema=_RATIO,
        breaks=_QUEUE,
        why="a load balancer reads gauges from 0 to 1 only",
    ),
    Rule(
        kind="AutoscalingMetric",
        path="spec.endpoints[].metrics",
        schema={"maxItems": 2},
        breaks=[{}] * 3,
        why="20 metrics per cluster reach load balancers; a release takes two",
    ),
    Rule(
        kind="GCPBackendPolicy",
        path="spec.default",
        schema={"required": ["timeoutSec"]},
        breaks={},
        why="routes have no timeouts on GKE, and the load balancer's own is 30 seconds",
    ),
    Rule(
        kind="GCPBackendPolicy",
        path="spec.default.scopes[].selector",
        schema={"minProperties": 1, "maxProperties": 1},
        breaks={"gke.io/region": "us-east5", "team": "a"},
        why="the first scope that matches wins, so no scope may overlap another",
    ),
    Rule(
        kind="GRPCRoute",
        path="kind",
        schema={"not": {}},
        breaks="GRPCRoute",
        why="no document says that GKE takes imported pools or Services as its backends",
    ),
)


def on_gke(objects: list[dict[str, Json]]) -> bool:
    """Whether the objects are for GKE's controllers: another class of Gateway has other rules."""
    classes = [one["spec"]["gatewayClassName"] for one in objects if one["kind"] == "Gateway"]
    return all(name.startswith("gke-") for name in classes)


def violations(objects: list[dict[str, Json]], rules: tuple[Rule, ...] = RULES) -> list[str]:
    """A sentence for each place that breaks a rule."""
    return [
        f"{one['kind']} {one['metadata']['name']} {rule.path}: {rule.why}"
        for one in objects
        for rule in rules
        if rule.kind == one["kind"]
        for found in places(one, rule.path.split("."))
        if not jsonschema.Draft202012Validator(rule.schema).is_valid(found)
    ]


def places(thing: Json, path: list[str]) -> Iterator[Json]:
    """What is at a path; nothing where a name of it is missing."""
    if not path:
        yield thing
        return
    name = path[0].removesuffix("[]")
    if name not in thing:
        return
    for one in thing[name] if path[0].endswith("[]") else [thing[name]]:
        yield from places(one, path[1:])
