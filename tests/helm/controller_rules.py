"""Holds objects against the rules of GKE's controllers that no schema has.

The table of the rules is the lab's, whose API servers refuse by it too. Knows no chart.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema

from k8s.clusters.control_plane.policies import RULES, Rule

type Json = Any


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
