"""What GKE's controllers refuse although every definition takes it, as policies of the API server.

Pure: gives objects. A policy holds in namespaces with the label `LABEL`: routes for other gateways
go elsewhere. Each rule brings an object that it must refuse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

type Object = dict[str, Any]

LABEL = "antipode-lab/gateway"
GKE = "gke"
_API = "admissionregistration.k8s.io/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """`expression` is CEL and holds for what GKE takes; it does not hold for the spec `refused`."""

    name: str
    api_version: str
    kind: str
    plural: str
    expression: str
    why: str
    refused: Object


_BACKENDS = {"backendRefs": [{"name": "any", "port": 8000}]}
_SELECTOR = {"matchLabels": {"app.kubernetes.io/name": "antipode"}}
_TARGET = {"group": "", "kind": "Service", "name": "any"}

RULES = (
    Rule(
        name="routes-have-no-timeouts",
        api_version="gateway.networking.k8s.io/v1",
        kind="HTTPRoute",
        plural="httproutes",
        expression="!has(object.spec.rules) || object.spec.rules.all(r, !has(r.timeouts))",
        why="GKE answers Accepted=False, UnsupportedValue, to a route with timeouts",
        refused={"rules": [{**_BACKENDS, "timeouts": {"request": "600s"}}]},
    ),
    Rule(
        name="selectors-have-plain-names",
        api_version="autoscaling.gke.io/v1beta1",
        kind="AutoscalingMetric",
        plural="autoscalingmetrics",
        expression="!has(object.spec.metrics) || object.spec.metrics.all(m, !has(m.pod) || "
        "m.pod.selector.matchLabels.all(name, name.matches('^[A-Za-z0-9_-]+$')))",
        why="label names of a metric's selector are letters, digits, - and _ only",
        refused={"metrics": [{"pod": {"selector": _SELECTOR}}]},
    ),
    Rule(
        name="policies-have-a-timeout",
        api_version="networking.gke.io/v1",
        kind="GCPBackendPolicy",
        plural="gcpbackendpolicies",
        expression="has(object.spec.default) && has(object.spec.default.timeoutSec)",
        why="routes have no timeouts on GKE, and the load balancer's own is 30 seconds",
        refused={"default": {}, "targetRef": _TARGET},
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
    """An object that the rule's policy refuses."""
    metadata = {"name": rule.name}
    return {
        "apiVersion": rule.api_version,
        "kind": rule.kind,
        "metadata": metadata,
        "spec": rule.refused,
    }


def _policy(rule: Rule) -> Object:
    group, version = rule.api_version.split("/")
    matched = {
        "apiGroups": [group],
        "apiVersions": [version],
        "operations": ["CREATE", "UPDATE"],
        "resources": [rule.plural],
    }
    spec = {
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [matched]},
        "validations": [{"expression": rule.expression, "message": rule.why}],
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
