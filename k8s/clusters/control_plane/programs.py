"""Builds the programs of a cluster from their Go modules, at the versions that `go/` pins.

Each folder of `go/` has a go.mod and a go.sum, which the Go command checks. Programs are kept
outside of the checkout, by the content of both files. Knows nothing of what the programs do.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from k8s.clusters.control_plane.go_command import GoCommand

MODULES = Path(__file__).parent.parent / "go"
DEFAULT_MINOR = "1.35"
MINORS = tuple(sorted(path.name.removeprefix("kubernetes-") for path in MODULES.glob("kube*")))
DEFAULT_HELM = "3"
HELMS = tuple(sorted(path.name.removeprefix("helm-") for path in MODULES.glob("helm-*")))
LEADER_WORKER_SET, ENVOY_GATEWAY = "lws", "envoy-gateway"
# The modules of controllers, whose source the lab also needs.
_CONTROLLERS = {
    LEADER_WORKER_SET: "sigs.k8s.io/lws",
    ENVOY_GATEWAY: "github.com/envoyproxy/gateway",
}
_NAMES = {"go.etcd.io/etcd/server/v3": "etcd", "sigs.k8s.io/lws/cmd": "lws"}
_VERSION = "k8s.io/component-base/version"


@dataclass(frozen=True, slots=True)
class Programs:
    """Paths of the built programs by name, such as kube-apiserver; `seconds` went into building."""

    paths: Mapping[str, Path]
    kubernetes: str
    helm: str
    seconds: float

    def __getitem__(self, name: str) -> str:
        return str(self.paths[name])


def cache_folder() -> Path:
    """ANTIPODE_CLUSTERS_CACHE, or ~/.cache/antipode/clusters."""
    chosen = os.environ.get("ANTIPODE_CLUSTERS_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "antipode" / "clusters"


def build(
    minor: str = DEFAULT_MINOR,
    helm: str = DEFAULT_HELM,
    within: float = math.inf,
    more: Sequence[str] = (),
) -> Programs:
    """Build what is missing, within so many seconds; `more` are further folders of `go/`. What is
    built stays, and so does what the Go command compiled. UnavailableError if the machine cannot,
    RuntimeError if a module does not fit.
    """
    began, found_all = time.monotonic(), built(minor, helm, more)
    paths: dict[str, Path] = {}
    for folder in _folders(minor, helm, more):
        paths |= _build_module(folder, began + within)
    version = module_version(f"kubernetes-{minor}", "k8s.io/kubernetes")
    helm_version = module_version(f"helm-{helm}", f"helm.sh/helm/v{helm}")
    seconds = 0.0 if found_all else time.monotonic() - began
    return Programs(paths, version, helm_version, seconds)


def built(minor: str = DEFAULT_MINOR, helm: str = DEFAULT_HELM, more: Sequence[str] = ()) -> bool:
    """Whether `build` would find every program in the cache."""
    folders = _folders(minor, helm, more)
    return all(path.exists() for name in folders for path in _targets(name).values())


def source(folder: str) -> Path:
    """The source of a controller's module: its definitions and charts. Errors as from `build`."""
    return GoCommand(MODULES / folder).source(_CONTROLLERS[folder])


def _folders(minor: str, helm: str, more: Sequence[str]) -> tuple[str, ...]:
    return ("etcd", f"kubernetes-{minor}", f"helm-{helm}", *more)


def module_version(folder: str, module: str) -> str:
    """The version of a module that a folder's go.mod requires, such as v1.35.4."""
    text = (MODULES / folder / "go.mod").read_text()
    found = re.search(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", text, re.MULTILINE)
    if found is None:
        raise ValueError(f"{folder}/go.mod requires no {module}")
    return found[1]


def tools(folder: str) -> list[str]:
    """The packages that a folder's go.mod lists as tools."""
    text = (MODULES / folder / "go.mod").read_text()
    block = re.search(r"^tool \(\n(.*?)^\)", text, re.MULTILINE | re.DOTALL)
    return block[1].split() if block else re.findall(r"^tool (\S+)$", text, re.MULTILINE)


def _targets(folder: str) -> dict[str, Path]:
    """Where each of a folder's packages is kept, by the name of its program."""
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum"):
        digest.update((MODULES / folder / name).read_bytes())
    kept = cache_folder() / f"{folder}-{digest.hexdigest()[:12]}"
    return {program_name(package): kept / program_name(package) for package in tools(folder)}


def program_name(package: str) -> str:
    """The last part of the package's path, where that names a program."""
    return _NAMES.get(package) or package.rsplit("/", 1)[1]


def _build_module(folder: str, deadline: float) -> dict[str, Path]:
    targets = _targets(folder)
    command = GoCommand(MODULES / folder, deadline)
    for package in tools(folder):
        target = targets[program_name(package)]
        if not target.exists():
            _build_one(command, package, target)
    return targets


def _build_one(command: GoCommand, package: str, target: Path) -> None:
    """Build next to the target first: an interrupted build leaves no half program."""
    folder = command.folder.name
    print(f"building {package} ({folder})", file=sys.stderr, flush=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_suffix(".draft")
    command.build(package, _linker_flags(folder), draft)
    draft.replace(target)


def _linker_flags(folder: str) -> list[str]:
    """Without symbols. Kubernetes and Helm need their version, or they say v0.0.0."""
    flags = ["-s", "-w"]
    if folder.startswith("kubernetes-"):
        version = module_version(folder, "k8s.io/kubernetes")
        major, minor, _ = version.removeprefix("v").split(".", 2)
        flags += [
            f"-X {_VERSION}.{name}={value}"
            for name, value in (("gitVersion", version), ("gitMajor", major), ("gitMinor", minor))
        ]
    return flags
