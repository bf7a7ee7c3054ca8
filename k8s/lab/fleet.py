"""Regions of real servers, and the ways to break them: kill, freeze, hang, drain, start again.

This module only acts on processes that it started. Knows neither the proxy nor the load.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from k8s.lab.chart_numbers import Numbers
from k8s.lab.ports import HOST, free_ports
from k8s.lab.proxy import Address

START_SECONDS = 240.0
MODEL = "tiny"
VERSION, NEW_VERSION = 1, 2
# Sizes that let four servers share two cores; the programs come from the compile cache.
SIZES = ("--max-num-seqs=16", "--max-num-batched-tokens=64", "--num-blocks=1024")


@dataclass(slots=True)
class Replica:
    """One server. `process` is None while the server is down. `is_touched` is set once a scenario
    acts on the server, because a hung server still reports for a while that it is ready.
    `log_start` is the place in its log where the present start begins.
    """

    name: str
    address: Address
    flags: Sequence[str]
    environment: Mapping[str, str]
    log_path: Path
    process: subprocess.Popen[bytes] | None = None
    engine_pid: int = 0
    is_touched: bool = False
    log_start: int = 0
    pids: list[int] = field(default_factory=list)

    def start(self) -> None:
        self.is_touched = True
        self.log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        ports = (f"--http-port={self.address.http}", f"--grpc-port={self.address.grpc}")
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "server", "serve", f"--host={HOST}", *ports, *self.flags],
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment, "JAX_PLATFORMS": "cpu"},
            )
        self.pids = [self.process.pid]

    @property
    def has_ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    async def wait_ready(self) -> None:
        """Wait until the server is ready; TimeoutError with its log if it is not in time."""
        async with httpx.AsyncClient(trust_env=False, timeout=2) as client:
            for _ in range(int(START_SECONDS / 0.2)):
                with contextlib.suppress(httpx.HTTPError):
                    answer = await client.get(f"http://{HOST}:{self.address.http}/readyz")
                    if answer.status_code == 200:
                        self._find_processes()
                        self.is_touched = False
                        return
                await asyncio.sleep(0.2)
        raise TimeoutError(f"{self.name} did not start:\n{self.log_path.read_text()[-2000:]}")

    def signal(self, number: signal.Signals) -> None:
        """Signal every process of the server at once, as if its machine had failed."""
        self.is_touched = True
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    async def wait_dead(self) -> None:
        """Wait until the kernel has removed every process and closed its sockets."""
        while any(_is_alive(pid) for pid in self.pids):
            await asyncio.sleep(0.001)

    def has_logged(self, words: str) -> bool:
        """Whether the server has logged these words since this start."""
        with self.log_path.open("rb") as log:
            log.seek(self.log_start)
            return words.encode() in log.read()

    def drain(self) -> None:
        self.is_touched = True
        if self.process is not None:
            self.process.terminate()

    def hang(self) -> None:
        """Stop only the engine: the server still answers, but never with a token."""
        self.is_touched = True
        os.kill(self.engine_pid, signal.SIGSTOP)

    def end(self) -> None:
        """Stop the server, whatever its state."""
        if self.process is None:
            return
        self.signal(signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        self.process = None

    def _find_processes(self) -> None:
        assert self.process is not None
        children = list(_children(self.process.pid))
        self.pids = [self.process.pid, *children]
        self.engine_pid = next(pid for pid in children if "engine" in _command_line(pid))


class Fleet:
    """Replicas by region, the primary first."""

    def __init__(self, numbers: Numbers, num_replicas: int, folder: Path) -> None:
        self._folder = folder
        regions = [*numbers.servers]
        flags = ["--dtype=float32", "--compile-cache-dir=.cache/xla-lab", *SIZES]
        with free_ports(2 * num_replicas * len(regions)) as ports:
            taken = iter(ports)
            self.regions: Mapping[str, list[Replica]] = {
                region: [
                    Replica(
                        name=f"{region}-{number}",
                        address=Address(next(taken), next(taken)),
                        flags=[*flags, f"--model-config={self._model_config(region)}"],
                        environment=numbers.servers[region],
                        log_path=folder / f"{region}-{number}.log",
                    )
                    for number in range(num_replicas)
                ]
                for region in regions
            }

        for region in regions:
            self.configure(region, VERSION)

    def configure(self, region: str, version: int) -> None:
        """Write the region's model file; its servers follow the file as they follow a ConfigMap."""
        path = self._model_config(region)
        draft = path.with_suffix(".draft")
        draft.write_text(f"name: {MODEL}\npath: models/tiny\nversion: {version}\n")
        draft.replace(path)

    def _model_config(self, region: str) -> Path:
        return self._folder / f"{region}.yaml"

    @property
    def replicas(self) -> list[Replica]:
        return [replica for replicas in self.regions.values() for replica in replicas]

    def region_of(self, upstream: str) -> str | None:
        """The region of the replica that listens at `upstream`, a host and a port."""
        port = upstream.rpartition(":")[2]
        for region, replicas in self.regions.items():
            if any(port in (str(r.address.http), str(r.address.grpc)) for r in replicas):
                return region
        return None

    async def restore(self) -> None:
        """Restart, all at once, every server that a scenario touched or that has ended."""
        for region in self.regions:
            self.configure(region, VERSION)
        gone = [replica for replica in self.replicas if replica.is_touched or replica.has_ended]
        for replica in gone:
            replica.end()
            replica.start()
        await asyncio.gather(*(replica.wait_ready() for replica in gone))

    def end(self) -> None:
        for replica in self.replicas:
            replica.end()


def _children(parent: int) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            stat = (entry / "stat").read_text().rpartition(") ")[2].split()
            if int(stat[1]) == parent:
                yield int(entry.name)


def _is_alive(pid: int) -> bool:
    """Whether a thread still runs. A main thread can be a zombie before the other threads end."""
    try:
        threads = [*Path(f"/proc/{pid}/task").iterdir()]
        return any((one / "stat").read_text().rpartition(") ")[2][0] not in "ZX" for one in threads)
    except OSError:
        return False


def _command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()
