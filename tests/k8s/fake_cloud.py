#!/usr/bin/env python3
"""Stands in for gcloud and kubectl: records every call, and remembers what was created.

It knows no Google API. It refuses what the real ones would refuse for the sake of order: creating
in what is not there or twice, deleting what is not there, and deleting a network that is in use.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

FOLDER = Path(os.environ["FAKE_CLOUD"])
VERBS = ("create", "describe", "delete", "enable", "disable", "list", "get")


def main() -> int:
    tool, words, flags = Path(sys.argv[0]).name, *split(sys.argv[1:])
    with (FOLDER / "calls").open("a") as calls:
        calls.write(json.dumps([tool, *sys.argv[1:]]) + "\n")
    state = FOLDER / "state"
    things = set(json.loads(state.read_text())) if state.exists() else set()
    answer = (gcloud if tool == "gcloud" else kubectl)(words, flags, things)
    state.write_text(json.dumps(sorted(things)))
    if isinstance(answer, int):
        return answer
    print(answer)
    return 0


def split(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    flags = dict(a[2:].partition("=")[::2] for a in arguments if a.startswith("--"))
    return [a for a in arguments if not a.startswith("--")], flags


def gcloud(words: list[str], flags: dict[str, str], things: set[str]) -> str | int:
    if words[0] == "beta":
        words = words[1:]
    match words:
        case ["projects", "describe", _]:
            return "123456"
        case ["container", "clusters", "get-credentials", name]:
            return "" if f"container clusters {flags['location']} {name}" in things else 1
        case ["services", "list"]:
            return "\n".join(t.split()[1] for t in things if t.startswith("services "))
        case ["services", "enable", *names]:
            things.update(f"services {name}" for name in names)
            return ""
        case [*_, "get-iam-policy", name]:
            return "role" if f"iam {name} {flags['filter']}" in things else ""
        case [*_, "add-iam-policy-binding", name]:
            wanted = f"bindings.members={flags['member']} AND bindings.role={flags['role']}"
            return add(things, f"iam {name} {wanted}")
        case ["compute", "firewall-rules", "list", *_]:
            rules = [t.split()[-1] for t in things if t.startswith("compute firewall-rules")]
            return "\n".join(sorted(rules))
        case ["compute", "regions", "describe", _]:
            return os.environ.get("FAKE_QUOTA", "64.0")
        case ["container", "fleet", feature, verb]:
            return act(verb, f"container fleet {feature}", flags, things)
        case [*group, verb, name] if verb in VERBS:
            place = flags.get("cluster", flags.get("router", ""))
            region = "" if group[0] == "storage" else flags.get("region", flags.get("location", ""))
            where = f"{region} {place}".strip()
            return act(verb, " ".join([*group, where, name]), flags, things)
    return refuse(f"not known here: {words}")


def kubectl(words: list[str], flags: dict[str, str], things: set[str]) -> str | int:
    if not any(t.startswith("container clusters ") for t in things):
        return refuse("no cluster")
    match words:
        case ["get", "deviceclass", _] | ["delete", "gateways.gateway.networking.k8s.io"]:
            return "found"
        case ["apply"]:
            return add(things, f"{flags['context']} applied {flags['filename']}")
        case ["get", "crd", _]:
            return "found" if any(f"{flags['context']} applied" in t for t in things) else 1
        case [verb, "namespace", name]:
            return act(verb, f"{flags['context']} namespace {name}", flags, things)
    return refuse(f"not known here: {words}")


def act(verb: str, thing: str, flags: dict[str, str], things: set[str]) -> str | int:
    match verb:
        case "describe" | "get":
            return "found" if thing in things else 1
        case "create" | "enable":
            return add(things, thing, flags)
        case _:
            return take(things, thing)


def add(things: set[str], thing: str, flags: dict[str, str] | None = None) -> str | int:
    if thing in things:
        return refuse(f"{thing} exists")
    for flag, kind in (("network", "compute networks"), ("subnetwork", "compute networks subnets")):
        name = (flags or {}).get(flag)
        if name and not any(t.startswith(kind) and t.endswith(f" {name}") for t in things):
            return refuse(f"{thing} needs {kind} {name}")
    things.add(thing)
    return ""


def take(things: set[str], thing: str) -> str | int:
    if thing not in things:
        return refuse(f"{thing} does not exist")
    if thing.startswith("compute networks  "):
        users = ("compute networks subnets", "compute firewall-rules", "compute routers")
        if used := [t for t in things if t.startswith(users)]:
            return refuse(f"{thing} is used by {used[0]}")
    if thing.startswith("container clusters") and "container fleet ingress" in things:
        return refuse("the fleet's features are to be disabled first")
    # What is inside goes with it: a router's NAT, a cluster's nodes and namespaces.
    name = thing.split()[-1]
    things -= {t for t in things if t == thing or name in t.split()[:-1] or f"_{name} " in t}
    return ""


def refuse(reason: str) -> int:
    print(reason, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
