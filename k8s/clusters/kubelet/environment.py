"""A container's variables, as a kubelet makes them from its pod. Pure functions.

Knows no API: the caller brings the ConfigMaps and Secrets that the variables refer to.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

type Object = dict[str, Any]
# The content of a ConfigMap or Secret by kind and name.
type Contents = Mapping[tuple[str, str], Mapping[str, str]]

_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")
_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['(.+)'\]")
_QUANTITY = re.compile(r"([0-9.]+)([A-Za-z]*)")
_UNITS = {
    "": Fraction(1),
    "m": Fraction(1, 1000),
    **{unit: Fraction(1000**power) for power, unit in enumerate("kMGTP", start=1)},
    **{f"{unit}i": Fraction(1024**power) for power, unit in enumerate("KMGTP", start=1)},
}


class MissingReferenceError(Exception):
    """A variable or volume refers to something that is not there."""


def environment(pod: Object, container: Object, contents: Contents) -> dict[str, str]:
    """The variables in their order; later ones may refer to earlier ones as $(NAME).
    MissingReferenceError names the ConfigMap, Secret, key or field that is not there.
    """
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        found |= _all_of(source, contents)
    for variable in container.get("env", ()):
        value = _value(pod, container, variable, contents)
        if value is not None:
            found[variable["name"]] = expand(value, found)
    return found


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace $(NAME) by its variable. $$ stands for $; an unknown name stays as it is."""

    def replacement(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else variables.get(match[1], match[0])

    return _REFERENCE.sub(replacement, text)


def command_line(
    container: Object, entrypoint: Sequence[str], variables: Mapping[str, str]
) -> list[str]:
    """The container's command, or the image's entry point, with the container's arguments."""
    parts = [*(container.get("command") or entrypoint), *container.get("args", ())]
    return [expand(part, variables) for part in parts]


def references(pod: Object) -> set[tuple[str, str]]:
    """The ConfigMaps and Secrets that a pod refers to, by kind and name."""
    found = set()
    for container in [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]:
        for source in container.get("envFrom", ()):
            for field, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                if field in source:
                    found.add((kind, source[field]["name"]))
        for variable in container.get("env", ()):
            origin = variable.get("valueFrom", {})
            for field, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
                if field in origin:
                    found.add((kind, origin[field]["name"]))
    for volume in pod["spec"].get("volumes", ()):
        for part in volume.get("projected", {}).get("sources", [volume]):
            if "configMap" in part:
                found.add(("ConfigMap", part["configMap"]["name"]))
            if "secret" in part:
                secret = part["secret"]
                found.add(("Secret", secret.get("secretName") or secret["name"]))
    return found


def decoded(kind: str, thing: Object) -> dict[str, str]:
    """The content of a ConfigMap or Secret. A Secret's bytes must be text."""
    data: dict[str, str] = thing.get("data") or {}
    if kind == "Secret":
        return {name: base64.b64decode(value).decode() for name, value in data.items()}
    return data


def quantity(text: str) -> Fraction:
    """A Kubernetes quantity, such as 500m or 64Gi, in its base unit."""
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"{text!r} is no quantity")
    return Fraction(match[1]) * _UNITS[match[2]]


def field(pod: Object, path: str) -> str:
    """What a fieldRef refers to. MissingReferenceError for a path that no kubelet knows."""
    metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status", {})
    if match := _SUBSCRIPT.fullmatch(path):
        return str(metadata.get(match[1], {}).get(match[2], ""))
    readers: dict[str, Callable[[], Any]] = {
        "metadata.name": lambda: metadata["name"],
        "metadata.namespace": lambda: metadata["namespace"],
        "metadata.uid": lambda: metadata["uid"],
        "spec.nodeName": lambda: spec["nodeName"],
        "spec.serviceAccountName": lambda: spec["serviceAccountName"],
        "status.hostIP": lambda: status["hostIP"],
        "status.podIP": lambda: status["podIP"],
        "status.podIPs": lambda: ",".join(one["ip"] for one in status["podIPs"]),
    }
    if path not in readers:
        raise MissingReferenceError(f"fieldRef {path}")
    return str(readers[path]())


def resource(pod: Object, container: Object, reference: Object) -> str:
    """What a resourceFieldRef refers to: a multiple of its divisor, rounded up."""
    name = reference.get("containerName", container["name"])
    [owner] = [one for one in pod["spec"]["containers"] if one["name"] == name]
    which, _, kind = reference["resource"].partition(".")
    amount = owner.get("resources", {}).get(which, {}).get(kind, "0")
    divisor = quantity(str(reference.get("divisor", "1")))
    return str(math.ceil(quantity(amount) / (divisor or Fraction(1))))


def _value(pod: Object, container: Object, variable: Object, contents: Contents) -> str | None:
    """None for an optional reference to something that is not there."""
    origin = variable.get("valueFrom")
    if origin is None:
        return str(variable.get("value", ""))
    if "fieldRef" in origin:
        return field(pod, origin["fieldRef"]["fieldPath"])
    if "resourceFieldRef" in origin:
        return resource(pod, container, origin["resourceFieldRef"])
    for kind, name in (("ConfigMap", "configMapKeyRef"), ("Secret", "secretKeyRef")):
        if name in origin:
            return _key(kind, origin[name], contents)
    raise MissingReferenceError(f"valueFrom {', '.join(origin)}")


def _key(kind: str, reference: Object, contents: Contents) -> str | None:
    name, key = reference["name"], reference["key"]
    value = contents.get((kind, name), {}).get(key)
    if value is None and not reference.get("optional"):
        raise MissingReferenceError(f"key {key} of {kind} {name}")
    return value


def _all_of(source: Object, contents: Contents) -> dict[str, str]:
    [field_name] = [name for name in ("configMapRef", "secretRef") if name in source]
    kind = "ConfigMap" if field_name == "configMapRef" else "Secret"
    reference = source[field_name]
    content = contents.get((kind, reference["name"]))
    if content is None and not reference.get("optional"):
        raise MissingReferenceError(f"{kind} {reference['name']}")
    return {source.get("prefix", "") + key: value for key, value in (content or {}).items()}
