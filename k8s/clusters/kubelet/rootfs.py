"""The file tree that a container sees: this machine's, read-only, with the pod's mounts in place.

Pure: gives folders, links and mounts in the order in which `container.py` makes them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Protocol

# The kernel's own: `container.py` mounts a new one.
_PROC = "/proc"


@dataclass(frozen=True, slots=True)
class Mount:
    """`source` is a folder or file of the machine, `target` the container's place for it."""

    source: str
    target: str
    read_only: bool


@dataclass(slots=True)
class Layout:
    """`links` are targets of symbolic links by place."""

    folders: list[str] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)
    mounts: list[Mount] = field(default_factory=list)


class Machine(Protocol):
    """What the layout asks about this machine's own tree."""

    def entries(self, folder: str) -> list[str]: ...
    def link(self, path: str) -> str | None: ...
    def is_folder(self, path: str) -> bool: ...


class ThisMachine:
    def entries(self, folder: str) -> list[str]:
        return sorted(os.listdir(folder))

    def link(self, path: str) -> str | None:
        return os.readlink(path) if os.path.islink(path) else None

    def is_folder(self, path: str) -> bool:
        return os.path.isdir(path)


def layout(mounts: Mapping[str, Mount], machine: Machine) -> Layout:
    """The tree with `mounts` by target. A folder of the machine that a target lies in is made anew
    and its other entries are mounted; everything else is mounted whole.

    A target is where the machine's links lead: /var/run may be a link to /run.
    """
    found = Layout()
    placed = [replace(mount, target=_resolved(place, machine)) for place, mount in mounts.items()]
    _walk("/", {mount.target: mount for mount in placed}, machine, found)
    found.mounts += sorted(placed, key=_depth)
    return found


def _resolved(path: str, machine: Machine) -> str:
    found = PurePosixPath("/")
    for part in PurePosixPath(path).parts[1:]:
        link = machine.link(str(found / part))
        found = found / part
        if link is not None:
            found = PurePosixPath(_resolved(os.path.normpath(found.parent / link), machine))
    return str(found)


def _depth(mount: Mount) -> int:
    return len(PurePosixPath(mount.target).parts)


def _walk(folder: str, mounts: Mapping[str, Mount], machine: Machine, found: Layout) -> None:
    for name in machine.entries(folder):
        path = f"{folder.rstrip('/')}/{name}"
        if path in mounts or path == _PROC:
            continue
        if (link := machine.link(path)) is not None:
            found.links[path] = link
        elif machine.is_folder(path) and any(target.startswith(f"{path}/") for target in mounts):
            found.folders.append(path)
            _walk(path, mounts, machine, found)
        else:
            found.mounts.append(Mount(path, path, read_only=True))
