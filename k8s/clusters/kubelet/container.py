"""Becomes a container: joins the pod's network, makes its own process ids and file tree, and runs.

A program of its own, with nothing but the standard library: the kubelet starts it, writes what to
run as JSON into its standard input, and reads the host's process id of the container's first
process from the descriptor `report`. Its exit code is the container's.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
_MS_BIND, _MS_REC, _MS_PRIVATE = 1 << 12, 1 << 14, 1 << 18
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1
_PR_SET_PDEATHSIG = 1
_SHARED_MEMORY = "/dev/shm"
CANNOT_RUN = 127


def main() -> int:
    spec = json.load(sys.stdin)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    _end_with_parent()
    network = os.open(f"/proc/{spec['sandbox']}/ns/net", os.O_RDONLY)
    os.setns(network, os.CLONE_NEWNET)
    os.unshare(os.CLONE_NEWNS | os.CLONE_NEWPID | os.CLONE_NEWUTS)
    socket.sethostname(spec["hostname"])
    first = os.fork()
    if first == 0:
        _become(spec)
    with os.fdopen(spec["report"], "w") as report:
        report.write(str(first))
    _, status = os.waitpid(first, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _become(spec: dict[str, Any]) -> None:
    """Process 1 of the container. Without its own handler, it ignores SIGTERM, as everywhere."""
    try:
        os.close(spec["report"])
        _end_with_parent()
        os.setsid()
        _make_tree(spec)
        os.chroot(spec["root"])
        os.chdir(spec["folder"])
        os.execvpe(spec["command"][0], spec["command"], spec["environment"])
    except OSError as error:
        print(
            f"the container cannot run {spec['command'][0]}: {error}", file=sys.stderr, flush=True
        )
        os._exit(CANNOT_RUN)


def _make_tree(spec: dict[str, Any]) -> None:
    root = spec["root"]
    _mount("", "/", flags=_MS_REC | _MS_PRIVATE)
    _mount("tmpfs", root, kind="tmpfs")
    for folder in spec["folders"]:
        os.makedirs(root + folder, exist_ok=True)
    for place, target in spec["links"].items():
        os.symlink(target, root + place)
    os.makedirs(f"{root}/proc")
    _mount("proc", f"{root}/proc", kind="proc")
    for source, target, read_only in spec["mounts"]:
        _make_place(source, root + target)
        _mount(source, root + target, flags=_MS_BIND | _MS_REC)
        if read_only:
            _make_read_only(root + target, _AT_RECURSIVE)
    if _SHARED_MEMORY not in [target for _, target, _ in spec["mounts"]]:
        # A container has its own, which it may write to, unless its pod brings another.
        _mount("tmpfs", root + _SHARED_MEMORY, kind="tmpfs")
    if spec["read_only"]:
        _make_read_only(root, 0)


def _make_place(source: str, place: str) -> None:
    if os.path.isdir(source):
        os.makedirs(place, exist_ok=True)
    elif not os.path.lexists(place):
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.close(os.open(place, os.O_CREAT | os.O_WRONLY, 0o644))


def _mount(source: str, target: str, kind: str = "", flags: int = 0) -> None:
    arguments = (source.encode(), target.encode(), kind.encode() or None)
    if _libc.mount(*arguments, ctypes.c_ulong(flags), None) != 0:
        raise OSError(ctypes.get_errno(), f"mount {source} at {target}")


def _make_read_only(target: str, flags: int) -> None:
    """With `flags`, what is mounted below the target too."""
    attributes = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_RDONLY, 0, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    call = (_MOUNT_SETATTR, _AT_FDCWD, target.encode(), flags, attributes, size)
    if _libc.syscall(*call) != 0:
        raise OSError(ctypes.get_errno(), f"make {target} read-only")


def _end_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
