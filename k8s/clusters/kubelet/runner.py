"""Starts a container of a pod as processes of this machine, and signals and awaits them.

Knows a pod's volumes as mounts, and nothing of its status.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from k8s.clusters.host.isolation import connect
from k8s.clusters.host.processes import end_with_parent
from k8s.clusters.kubelet.rootfs import Mount, ThisMachine, layout

_PROGRAM = str(Path(__file__).with_name("container.py"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What a container runs, on which mounts by target. `folder` is its working directory."""

    command: list[str]
    environment: Mapping[str, str]
    mounts: Mapping[str, Mount]
    folder: str
    hostname: str
    read_only: bool


class Sandbox:
    """The network of a pod, which lives as long as a process of its own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["unshare", "--net", "sleep", "infinity"], preexec_fn=end_with_parent
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    async def connect(self, address: str, gateway: str, interface: str) -> None:
        own = os.readlink("/proc/self/ns/net")
        while os.readlink(f"/proc/{self.pid}/ns/net") == own:
            await asyncio.sleep(0.005)
        await asyncio.to_thread(connect, self.pid, address, gateway, interface)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


class Running:
    """A running container. `pid` is its first process."""

    def __init__(self, process: Process, pid: int) -> None:
        self._process, self.pid = process, pid

    def signal(self, number: signal.Signals) -> None:
        """Signal the first process, as container runtimes do; SIGKILL ends all processes."""
        if self._process.returncode is None and self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def wait(self) -> int:
        """The exit code; above 128 it is a signal's number plus 128."""
        code = await self._process.wait()
        return code if code >= 0 else 128 - code


async def start(sandbox: Sandbox, command: Command, root: Path, log: Path) -> Running:
    """Start a container; what it prints is added to `log`."""
    root.mkdir(parents=True, exist_ok=True)
    tree = layout(command.mounts, ThisMachine())
    reading, writing = os.pipe()
    spec = {
        "sandbox": sandbox.pid,
        "report": writing,
        "root": str(root),
        "folder": command.folder,
        "hostname": command.hostname,
        "command": command.command,
        "environment": dict(command.environment),
        "read_only": command.read_only,
        "folders": tree.folders,
        "links": tree.links,
        "mounts": [(one.source, one.target, one.read_only) for one in tree.mounts],
    }
    try:
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", _PROGRAM),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=(writing,),
                preexec_fn=end_with_parent,
            )
    finally:
        os.close(writing)
    assert process.stdin is not None
    process.stdin.write(json.dumps(spec).encode())
    process.stdin.close()
    with os.fdopen(reading) as report:
        pid = await asyncio.to_thread(report.read)
    return Running(process, int(pid or 0))
