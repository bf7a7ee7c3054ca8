"""What GKE's controllers refuse or drop although every definition takes it: a table of rules.

The charts' tests hold rendered objects against the rules' schemas. Here they become policies of the
API server, which hold in namespaces with the label `LABEL`: routes for other gateways go elsewhere.
Pure: gives objects. Knows no chart.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

type Json = Any
type Object = dict[str, Json]

LABEL = "antipode-lab/gateway"
GKE = "gke"
_API = "admissionregistration.k8s.io/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What holds for the JSON at `path`, which is dotted; `[]` after a name means every item. A
    place that is not there is fine.

    `schema` and `cel` say the same: the one in JSON Schema, the other in CEL of `{it}`. `breaks` is
    a value that they refuse; `around` is the rest of a spec that breaks no other rule with it.
    """

    name: str
    api_version: str
    kind: str
    plural: str
    path: str
    schema: Object
    cel: str
    breaks: Json
    why: str
    around: Object = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kind} {self.path}"


_PLAIN_NAMES = {"propertyNames": {"pattern": "^[A-Za-z0-9_-]+$"}}
_PLAIN_NAMES_CEL = "{it}.all(name, name.matches('^[A-Za-z0-9_-]+$'))"
_DOTTED = {"app.kubernetes.io/name": "antipode"}
_BALANCED = {
    "required": ["gauge"],
    "properties": {"gauge": {"required": ["loadBalancing"]}},
}
_RATIO = {"pattern": "_ratio$"}
_QUEUE = "antipode_num_requests_waiting"
_LOAD = {"prometheusMetricName": "antipode_load_ratio", "loadBalancing": {"enabled": True}}
_TARGET = {"group": "", "kind": "Service", "name": "any"}
_ROUTE: Any = {
    "api_version": "gateway.networking.k8s.io/v1",
    "kind": "HTTPRoute",
    "plural": "httproutes",
}
_METRIC: Any = {
    "api_version": "autoscaling.gke.io/v1beta1",
    "kind": "AutoscalingMetric",
    "plural": "autoscalingmetrics",
}
_POLICY: Any = {
    "api_version": "networking.gke.io/v1",
    "kind": "GCPBackendPolicy",
    "plural": "gcpbackendpolicies",
}

RULES = (
    Rule(
        **_ROUTE,
        name="routes-have-no-timeouts",
        path="spec.rules[]",
        schema={"not": {"required": ["timeouts"]}},
        cel="!has({it}.timeouts)",
        breaks={"backendRefs": [{"name": "any", "port": 8000}], "timeouts": {"request": "600s"}},
        why="GKE's Gateway controller answers Accepted=False, UnsupportedValue, and routes nothing",
    ),
    Rule(
        **_METRIC,
        name="selectors-have-plain-names",
        path="spec.metrics[].pod.selector.matchLabels",
        schema=_PLAIN_NAMES,
        cel=_PLAIN_NAMES_CEL,
        breaks=_DOTTED,
        why="label names of a metric's selector are letters, digits, - and _ only",
    ),
    Rule(
        **_METRIC,
        name="selectors-of-endpoints-have-plain-names",
        path="spec.selector.matchLabels",
        schema=_PLAIN_NAMES,
        cel=_PLAIN_NAMES_CEL,
        breaks=_DOTTED,
        why="label names of the selector of endpoints are letters, digits, - and _ only",
    ),
    Rule(
        **_METRIC,
        name="balanced-gauges-are-ratios",
        path="spec.metrics[].pod.containers[].metrics[].gauge",
        schema={
            "if": {"required": ["loadBalancing"]},
            "then": {"properties": {"prometheusMetricName": _RATIO}},
        },
        cel="!has({it}.loadBalancing) || {it}.prometheusMetricName.endsWith('_ratio')",
        breaks={"prometheusMetricName": _QUEUE, "loadBalancing": {"enabled": True}},
        why="a load balancer reads gauges from 0 to 1 only",
    ),
    Rule(
        **_METRIC,
        name="a-release-balances-by-two-gauges",
        path="spec.metrics[].pod.containers[].metrics",
        schema={"contains": _BALANCED, "minContains": 0, "maxContains": 2},
        cel="{it}.filter(m, has(m.gauge) && has(m.gauge.loadBalancing)).size() <= 2",
        breaks=[{"gauge": _LOAD}] * 3,
        why="20 metrics per cluster reach load balancers; a release takes two gauges",
    ),
    Rule(
        **_METRIC,
        name="metrics-of-endpoints-are-ratios",
        path="spec.endpoints[].metrics[].name",
        schema=_RATIO,
        cel="{it}.endsWith('_ratio')",
        breaks=_QUEUE,
        why="a load balancer reads metrics of endpoints from 0 to 1 only",
    ),
    Rule(
        **_METRIC,
        name="a-release-has-two-metrics-of-endpoints",
        path="spec.endpoints[].metrics",
        schema={"maxItems": 2},
        cel="{it}.size() <= 2",
        breaks=[{"name": "antipode_load_ratio"}] * 3,
        why="20 metrics per cluster reach load balancers; a release takes two of its endpoints",
    ),
    Rule(
        **_POLICY,
        name="policies-have-a-timeout",
        path="spec",
        schema={
            "required": ["default"],
            "properties": {"default": {"required": ["timeoutSec"]}},
        },
        cel="has({it}.default) && has({it}.default.timeoutSec)",
        breaks={"default": {}, "targetRef": _TARGET},
        why="routes have no timeouts on GKE, and the load balancer's own is 30 seconds",
    ),
    Rule(
        **_POLICY,
        name="scopes-do-not-overlap",
        path="spec.default.scopes[].selector",
        schema={"minProperties": 1, "maxProperties": 1},
        cel="{it}.size() == 1",
        breaks={"gke.io/region": "us-east5", "team": "a"},
        why="the first scope that matches wins, so no scope may overlap another",
        around={"default": {"timeoutSec": 600}, "targetRef": _TARGET},
    ),
    Rule(
        name="no-routes-of-grpc",
        api_version="gateway.networking.k8s.io/v1",
        kind="GRPCRoute",
        plural="grpcroutes",
        path="kind",
        schema={"not": {}},
        cel="false",
        breaks="GRPCRoute",
        why="no document says that GKE takes imported pools or Services as a GRPCRoute's backends",
    ),
)


def policies() -> list[tuple[str, Object]]:
    """Each rule's policy and its binding, with the plural of their kind."""
    return [
        made
        for rule in RULES
        for made in (
            ("validatingadmissionpolicies", _policy(rule)),
            ("validatingadmissionpolicybindings", _binding(rule)),
        )
    ]


def refused(rule: Rule) -> Object:
    """An object that breaks the rule, and no other."""
    thing: Object = {"spec": deepcopy(rule.around)}
    _put(thing, rule.path.split("."), rule.breaks)
    about = {"apiVersion": rule.api_version, "kind": rule.kind, "metadata": {"name": rule.name}}
    return thing | about


def _put(thing: Object, path: list[str], value: Json) -> None:
    """Put a value at a path; a list on the way gets one item."""
    name, rest = path[0].removesuffix("[]"), path[1:]
    below: Json = thing.setdefault(name, {}) if rest and not path[0].endswith("[]") else {}
    if rest:
        _put(below, rest, value)
    else:
        below = value
    thing[name] = [below] if path[0].endswith("[]") else below


def expression(place: str, path: list[str], cel: str) -> str:
    """CEL that holds where `cel` holds for all that is at a path from a place, or nothing is."""
    if not path:
        return f"({cel.format(it=place)})"
    here = f"{place}.{path[0].removesuffix('[]')}"
    if path[0].endswith("[]"):
        # A name for each list on the way, such as rules_.
        item = f"{path[0].removesuffix('[]')}_"
        below = f"{here}.all({item}, {expression(item, path[1:], cel)})"
    else:
        below = expression(here, path[1:], cel)
    return f"(!has({here}) || {below})"


def _policy(rule: Rule) -> Object:
    group, version = rule.api_version.split("/")
    matched = {
        "apiGroups": [group],
        "apiVersions": [version],
        "operations": ["CREATE", "UPDATE"],
        "resources": [rule.plural],
    }
    cel = expression("object", rule.path.split("."), rule.cel)
    spec = {
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [matched]},
        "validations": [{"expression": cel, "message": rule.why}],
    }
    return _object("ValidatingAdmissionPolicy", rule, spec)


def _binding(rule: Rule) -> Object:
    spec = {
        "policyName": rule.name,
        "validationActions": ["Deny"],
        "matchResources": {"namespaceSelector": {"matchLabels": {LABEL: GKE}}},
    }
    return _object("ValidatingAdmissionPolicyBinding", rule, spec)


def _object(kind: str, rule: Rule, spec: Object) -> Object:
    return {"apiVersion": _API, "kind": kind, "metadata": {"name": rule.name}, "spec": spec}
