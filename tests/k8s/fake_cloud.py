"""Stands in for gcloud, kubectl and terraform: records every call, and remembers what is there.

It knows no Google API. It refuses what the real ones would refuse for the sake of order: a context
that nobody has asked for, creating twice, deleting what is not there. It says of what is not there
what the real ones say, and fails in the words that a test has put into the file `failures`.
"""

from __future__ import annotations

import json
import os
import re
import sys

FOLDER = os.environ["FAKE_CLOUD"]

# What is there, and what describing it tells.
Things = dict[str, dict[str, str]]


def main() -> int:
    tool, words, flags = os.path.basename(sys.argv[0]), *split(sys.argv[1:])
    write("calls", json.dumps([tool, *sys.argv[1:]]) + "\n", mode="a")
    if reason := failure([tool, *words]):
        return refuse(reason)
    things = json.loads(read("state") or "{}")
    answer = {"gcloud": gcloud, "kubectl": kubectl, "terraform": terraform}[tool](
        words, flags, things
    )
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


def terraform(words: list[str], flags: dict[str, str], things: Things) -> str | int:
    match words:
        case [folder, "output", "-raw", "fleet"] if folder.startswith("-chdir="):
            return read("fleet")
    return refuse(f"not known here: {words}")


def gcloud(words: list[str], flags: dict[str, str], things: Things) -> str | int:
    match words:
        case ["container", "clusters", "get-credentials", name]:
            there = f"cluster {flags['location']} {name}" in things
            return "" if there else refuse("code=404, message=Not found")
        case ["container", "clusters", "describe", name]:
            return tell(f"cluster {flags['location']} {name}", flags, things)
        case ["container", "fleet", "ingress", "describe"]:
            return tell("fleet ingress", flags, things)
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
            return "found" if "fleet ingress" in things else absent(name)
        case ["apply"]:
            things[f"{context} applied {flags['filename']}"] = {}
            return ""
        case ["get", "crd", name]:
            return "found" if any(f"{context} applied" in t for t in things) else absent(name)
        case ["get", "namespace", name]:
            return tell(f"{context} namespace {name}", flags, things)
        case ["create", "namespace", name]:
            return add(f"{context} namespace {name}", things)
        case ["delete", "namespace", name]:
            return take(f"{context} namespace {name}", things)
    return refuse(f"not known here: {words}")


def tell(thing: str, flags: dict[str, str], things: Things) -> str | int:
    """What `--format=value(a.b,c)` asks for, by the last word of each path."""
    if thing not in things:
        return absent(thing)
    fields = re.findall(r"(\w+)[,)]", flags.get("format", ""))
    return "\t".join(things[thing].get(field, "") for field in fields) if fields else "found"


def add(thing: str, things: Things) -> str | int:
    if thing in things:
        return refuse(f"{thing} exists")
    things[thing] = {}
    return ""


def take(thing: str, things: Things) -> str | int:
    if thing not in things:
        return refuse(f"{thing} does not exist")
    del things[thing]
    return ""


def absent(thing: str) -> int:
    """Each service has its own words for it."""
    if thing == "fleet ingress":
        return refuse("multiclusteringress Feature for project [my-project] is not enabled")
    if thing.startswith("cluster"):
        return refuse(f"ResponseError: code=404, message=Not found: {thing}.")
    return refuse(f'Error from server (NotFound): "{thing}" not found')


def refuse(reason: str) -> int:
    print(f"ERROR: {reason}", file=sys.stderr)
    return 1
