"""Stands in for gcloud and kubectl: records every call, and remembers what was created.

It knows no Google API. It refuses what the real ones would refuse for the sake of order: creating
in what is not there or twice, deleting what is not there, and deleting a network that is in use. It
refuses flags that the real ones refuse where a script is tempted to use them, says of what is not
there what the real ones say, and fails in the words that a test has put into the file `failures`.
"""

from __future__ import annotations

import json
import os
import re
import sys

FOLDER = os.environ["FAKE_CLOUD"]
VERBS = ("create", "describe", "delete", "enable", "disable", "list", "get")
REGIONS = ("europe-west4", "us-east5")

# What was created, and what describing it tells.
Things = dict[str, dict[str, str]]


def main() -> int:
    tool, words, flags = os.path.basename(sys.argv[0]), *split(sys.argv[1:])
    write("calls", json.dumps([tool, *sys.argv[1:]]) + "\n", mode="a")
    if reason := failure([tool, *words]) or bad_flag(words, flags):
        return refuse(reason)
    things = json.loads(read("state") or "{}")
    answer = (gcloud if tool == "gcloud" else kubectl)(words, flags, things)
    write("state", json.dumps(things, sort_keys=True))
    if isinstance(answer, int):
        return answer
    print(answer)
    return 0


# Each call starts Python anew, and pathlib would be a third of that.
def read(name: str) -> str:
    """What a file of the test holds; "" if it is not there."""
    path = os.path.join(FOLDER, name)
    if not os.path.exists(path):
        return ""
    with open(path) as file:
        return file.read()


def write(name: str, text: str, mode: str = "w") -> None:
    with open(os.path.join(FOLDER, name), mode) as file:
        file.write(text)


def split(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    flags = dict(a[2:].partition("=")[::2] for a in arguments if a.startswith("--"))
    return [a for a in arguments if not a.startswith("--")], flags


def failure(words: list[str]) -> str | None:
    """The words in which a test lets this call fail, as often as it wants."""
    failures = json.loads(read("failures") or "[]")
    for entry in failures:
        if entry["times"] > 0 and " ".join(words).startswith(entry["call"]):
            entry["times"] -= 1
            write("failures", json.dumps(failures))
            return entry["saying"]
    return None


def bad_flag(words: list[str], flags: dict[str, str]) -> str | None:
    if "filter" in flags and "list" not in words:
        return "unrecognized arguments: --filter"
    empty = [f for f in flags if f"--{f}=" in sys.argv]
    return f"argument --{empty[0]}: expected one argument" if empty else None


def gcloud(words: list[str], flags: dict[str, str], things: Things) -> str | int:
    if words[0] == "beta":
        words = words[1:]
    match words:
        case _ if "help" in flags:
            return os.environ.get("FAKE_HELP", "--accelerator-network-profile=PROFILE")
        case ["projects", "describe", _]:
            return "123456"
        case ["container", "clusters", "get-credentials", name]:
            there = f"container clusters {flags['location']} {name}" in things
            return "" if there else refuse("code=404, message=Not found")
        case ["services", "list"]:
            return "\n".join(t.split()[1] for t in things if t.startswith("services "))
        case ["services", "enable", *names]:
            things.update({f"services {name}": {} for name in names})
            return ""
        case ["services", "identity", "create"]:
            things[f"identity {flags['service']}"] = {}
            return ""
        case [*_, "get-iam-policy", name]:
            bindings = [t.split()[2:] for t in things if t.startswith(f"iam {name} ")]
            return "\n".join(map(",".join, bindings))
        case [*_, "add-iam-policy-binding", name]:
            return bind(name, flags["member"], flags["role"], things)
        case ["compute", "firewall-rules", "list", *_]:
            rules = [t.split()[-1] for t in things if t.startswith("compute firewall-rules")]
            return "\n".join(sorted(rules))
        case ["quotas", "info", "describe", _]:
            chips = os.environ.get("FAKE_QUOTA", "64")
            return "\n".join(f"{r},CT5LP,1\n{r},CT6E,{chips}" for r in REGIONS if chips)
        case ["container", "fleet", feature, verb]:
            return act(verb, f"container fleet {feature}", flags, things)
        case [*group, verb, name] if verb in VERBS:
            place = flags.get("cluster", flags.get("router", ""))
            region = "" if group[0] == "storage" else flags.get("region", flags.get("location", ""))
            where = f"{region} {place}".strip()
            return act(verb, " ".join([*group, where, name]), flags, things)
    return refuse(f"not known here: {words}")


def kubectl(words: list[str], flags: dict[str, str], things: Things) -> str | int:
    context = flags["context"]
    # A cluster that another machine has made is in nobody's kubeconfig until it is asked for.
    asked = [json.loads(call) for call in read("calls").splitlines()]
    if not any("get-credentials" in c and context.endswith(f"_{c[4]}") for c in asked):
        return refuse(f'error: context "{context}" does not exist')
    match words:
        case ["get", "deviceclass", _] | ["delete", _]:
            return "found"
        case ["get", "gatewayclass", name]:
            return "found" if "container fleet ingress" in things else absent(name)
        case ["apply"]:
            return add(things, f"{context} applied {flags['filename']}", flags)
        case ["get", "crd", name]:
            return "found" if any(f"{context} applied" in t for t in things) else absent(name)
        case [verb, "namespace", name]:
            return act(verb, f"{context} namespace {name}", flags, things)
    return refuse(f"not known here: {words}")


def act(verb: str, thing: str, flags: dict[str, str], things: Things) -> str | int:
    match verb:
        case "describe" | "get":
            return tell(things[thing], flags) if thing in things else absent(thing)
        case "create" | "enable":
            return add(things, thing, flags)
        case _:
            return take(things, thing)


def tell(about: dict[str, str], flags: dict[str, str]) -> str:
    """What `--format=value(a.b,c)` asks for, by the last word of each path."""
    fields = re.findall(r"(\w+)[,)]", flags.get("format", ""))
    return "\t".join(about.get(field, "") for field in fields) if fields else "found"


def bind(name: str, member: str, role: str, things: Things) -> str | int:
    agent = re.search(r"@gcp-sa-(\w+)\.", member)
    if agent and f"identity {agent[1]}.googleapis.com" not in things:
        return refuse(f"Service account {member} does not exist.")
    return add(things, f"iam {name} {member} {role}", {})


def add(things: Things, thing: str, flags: dict[str, str]) -> str | int:
    if thing in things:
        return refuse(f"{thing} exists")
    for flag, kind in (("network", "compute networks"), ("subnetwork", "compute networks subnets")):
        name = flags.get(flag)
        if name and not any(t.startswith(kind) and t.endswith(f" {name}") for t in things):
            return refuse(f"{thing} needs {kind} {name}")
    things[thing] = {
        "name": thing.split()[-1],
        "description": flags.get("description", ""),
        "status": "RUNNING",
        "initialNodeCount": flags.get("num-nodes", ""),
        "configMembership": flags.get("config-membership", ""),
        "code": "OK",
    }
    return ""


def take(things: Things, thing: str) -> str | int:
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
    for inside in [t for t in things if t == thing or name in t.split()[:-1] or f"_{name} " in t]:
        del things[inside]
    return ""


def absent(thing: str) -> int:
    """Each service has its own words for it."""
    match thing.split():
        case ["compute", "routers", "nats", *_, name]:
            return refuse(f"NAT `{name}` not found")
        case ["compute", *_]:
            return refuse(f"Could not fetch resource:\n - The resource '{thing}' was not found")
        case ["container", "fleet", feature]:
            return refuse(f"{feature} Feature for project [my-project] is not enabled")
        case ["container", *_]:
            return refuse(f"ResponseError: code=404, message=Not found: {thing}.")
        case ["storage", *_, bucket]:
            return refuse(f"{bucket} not found: 404.")
    return refuse(f'Error from server (NotFound): "{thing}" not found')


def refuse(reason: str) -> int:
    print(f"ERROR: {reason}", file=sys.stderr)
    return 1
