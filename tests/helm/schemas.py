"""Schemas to hold rendered objects against: Kubernetes', custom resources', and a few of our own.

GKE installs some kinds whose definitions are not public; theirs are written here from its pages, as
small as what the charts use.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate

from tests.helm.charts import read_all

KUBERNETES = ("1.34", "1.35")

type Schema = dict[str, Any]


def record(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(required),
        "properties": properties,
    }


def array(items: Schema) -> Schema:
    return {"type": "array", "minItems": 1, "items": items}


TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "integer"}
_SECONDS: Schema = {"type": "string", "pattern": "^[0-9]+s$"}
_TARGET = record(("group", "kind", "name"), group=TEXT, kind=TEXT, name=TEXT)
_LABELS = record(("matchLabels",), matchLabels={"type": "object"})
_METRIC = record(("name", "exportName"), name=TEXT, exportName=TEXT)
_GAUGE = record(
    ("name", "prometheusMetricName"),
    name={"type": "string", "pattern": "^[a-z][a-z0-9-]{0,62}$"},
    prometheusMetricName=TEXT,
    loadBalancing=record(enabled={"type": "boolean"}),
)
_PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
_IPV4: Schema = {"type": "string", "format": "ipv4"}
# Envoy Gateway refuses a name of one label, and an address in place of a name.
_FQDN: Schema = {
    "type": "string",
    "maxLength": 253,
    "pattern": "^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?[.])+[a-z]([-a-z0-9]{0,61}[a-z0-9])?$",
}
_PACE = {
    "interval": _SECONDS,
    "timeout": _SECONDS,
    "unhealthyThreshold": NUMBER,
    "healthyThreshold": NUMBER,
}
# Each kind of check has a record of its name, and no other's.
_ACTIVE_CHECK: Schema = {
    "oneOf": [
        record(
            ("type", "http"),
            type={"const": "HTTP"},
            http=record(("path",), path=TEXT, expectedStatuses=array(NUMBER)),
            **_PACE,
        ),
        record(("type",), type={"const": "GRPC"}, grpc=record(service=TEXT), **_PACE),
    ]
}

OWN: dict[str, Schema] = {
    "AutoscalingMetric": {
        "oneOf": [
            record(
                ("selector", "endpoints"),
                selector=_LABELS,
                endpoints=array(record(port=NUMBER, path=TEXT, metrics=array(_METRIC))),
            ),
            record(
                ("metrics",),
                metrics=array(
                    record(
                        pod=record(
                            selector=_LABELS,
                            containers=array(
                                record(
                                    endpoint=record(path=TEXT, port=NUMBER),
                                    metrics=array(record(gauge=_GAUGE)),
                                )
                            ),
                        )
                    )
                ),
            ),
        ]
    },
    "GCPBackendPolicy": record(
        ("targetRef", "default"),
        targetRef=_TARGET,
        default=record(
            ("timeoutSec",),
            timeoutSec={"type": "integer", "maximum": 86400},
            trafficDuration={"enum": ["LONG", "SHORT"]},
            connectionDraining=record(drainingTimeoutSec={"type": "integer", "maximum": 3600}),
            balancingMode={"enum": ["CUSTOM_METRICS", "IN_FLIGHT", "RATE", "UTILIZATION"]},
            customMetrics=array(
                record(
                    ("name",),
                    name={"type": "string", "pattern": "^gke\\.named_metrics\\."},
                    maxUtilizationPercent={"type": "integer", "minimum": 1, "maximum": 100},
                    dryRun={"type": "boolean"},
                )
            ),
            maxInFlightRequestsPerEndpoint=NUMBER,
            scopes=array(
                record(
                    ("selector",),
                    selector={"type": "object"},
                    backendPreference={"enum": ["PREFERRED"]},
                    capacityScalerPercent={"type": "integer", "minimum": 0, "maximum": 100},
                )
            ),
        ),
    ),
    "ComputeClass": record(
        ("priorities",),
        nodePoolAutoCreation=record(("enabled",), enabled={"type": "boolean"}),
        nodePoolConfig=record(
            ("serviceAccount",),
            serviceAccount=TEXT,
            dra=record(networking=record(enabled={"type": "boolean"})),
        ),
        priorities=array(
            record(
                ("machineType", "tpu"),
                machineType=TEXT,
                tpu=record(("type", "count", "topology"), type=TEXT, count=NUMBER, topology=TEXT),
                spot={"type": "boolean"},
                flexStart=record(("enabled",), enabled={"type": "boolean"}),
                nodeSystemConfig=record(
                    kubeletConfig=record(
                        shutdownGracePeriodSeconds={
                            "type": "integer",
                            "minimum": 30,
                            "maximum": 120,
                        },
                        shutdownGracePeriodCriticalPodsSeconds=NUMBER,
                    )
                ),
                reservations=record(
                    ("affinity", "specific"),
                    affinity={"enum": ["Specific"]},
                    specific=array(record(("name",), name=TEXT)),
                ),
                acceleratorNetworkProfile={"enum": ["auto"]},
            )
        ),
    ),
    "Backend": record(
        ("endpoints",),
        fallback={"type": "boolean"},
        appProtocols=array({"enum": ["gateway.envoyproxy.io/h2c"]}),
        endpoints=array(
            {
                "oneOf": [
                    record(
                        ("fqdn",), fqdn=record(("hostname", "port"), hostname=_FQDN, port=_PORT)
                    ),
                    record(("ip",), ip=record(("address", "port"), address=_IPV4, port=_PORT)),
                ]
            }
        ),
    ),
    "ServiceExport": record(),
    "GlobalRules": record(
        ("groups",),
        groups=array(
            record(
                ("name", "rules"),
                name=TEXT,
                interval=TEXT,
                rules=array({"type": "object", "required": ["alert", "expr"]}),
            )
        ),
    ),
    "BackendTrafficPolicy": record(
        ("targetRefs",),
        targetRefs=array(_TARGET),
        healthCheck=record(("active", "passive"), active=_ACTIVE_CHECK, passive={"type": "object"}),
        retry={"type": "object"},
        circuitBreaker={"type": "object"},
    ),
}


def crd_folder() -> Path | None:
    """Where custom resource definitions lie, if CRD_SCHEMAS says so."""
    folder = os.environ.get("CRD_SCHEMAS", "")
    return Path(folder) if folder else None


def crd_schemas(folder: Path) -> dict[tuple[str, str, str], Schema]:
    """Schemas by group, version and kind; strict: a name that is not there is an error."""
    found = {}
    for path in sorted(folder.rglob("*.yaml")):
        for crd in read_all(path.read_text()):
            if not crd or crd.get("kind") != "CustomResourceDefinition":
                continue
            spec = crd["spec"]
            for version in spec["versions"]:
                key = (spec["group"], version["name"], spec["names"]["kind"])
                found[key] = _strict(version["schema"]["openAPIV3Schema"])
    return found


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    # Alternatives name some of an object's properties, not all.
    whole = ("oneOf", "anyOf", "allOf", "not")
    out = {key: value if key in whole else _strict(value) for key, value in schema.items()}
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") or "metadata" in schema
    if isinstance(schema.get("properties"), dict) and not is_open:
        out.setdefault("additionalProperties", False)
    return out


_CORE_GROUPS = ("", "apps", "autoscaling", "policy", "networking.k8s.io", "resource.k8s.io")


def is_core(thing: dict[str, Any]) -> bool:
    """Whether the kind is one of Kubernetes' own."""
    group = thing["apiVersion"].rpartition("/")[0]
    return group in (*_CORE_GROUPS, "rbac.authorization.k8s.io")


def validate_core(thing: dict[str, Any], version: str) -> None:
    _validate_core(json.dumps(thing, sort_keys=True), version)


@cache
def _validate_core(thing: str, version: str) -> None:
    """Of many cases most objects are the same, and each takes 10 ms. Errors are not kept."""
    kubernetes_validate.validate(json.loads(thing), version, strict=True)


def validate_own(thing: dict[str, Any]) -> None:
    formats = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.validate(thing.get("spec", {}), OWN[thing["kind"]], format_checker=formats)


def validate_crd(thing: dict[str, Any], schemas: dict[tuple[str, str, str], Schema]) -> None:
    group, _, version = thing["apiVersion"].partition("/")
    jsonschema.Draft202012Validator(schemas[group, version, thing["kind"]]).validate(thing)
