"""A server to load: one that runs at a URL, or one that is started by a command and ended again.

Of a server that it started it knows the processes, and so what they take. `{port}` in a command is
a free port. Knows no server by name.
"""

from __future__ import annotations

import shlex
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx
import psutil

_START_SECONDS = 600
_END_SECONDS = 60


class Target:
    """Used in a `with`, in which `url` answers. `model` is the first that the server names."""

    def __init__(self, name: str, where: str, log: Path) -> None:
        self.name = name
        self.model = ""
        self.ready_seconds = 0.0
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        if where.startswith(("http://", "https://")):
            self.url, self._command = where.rstrip("/").removesuffix("/v1"), ""
        else:
            port = _free_port()
            self.url, self._command = f"http://127.0.0.1:{port}", where.replace("{port}", str(port))

    def __enter__(self) -> Target:
        start = time.perf_counter()
        if self._command:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    shlex.split(self._command), stdout=log, stderr=subprocess.STDOUT
                )
        try:
            self.model = self._wait(start + _START_SECONDS)
        except BaseException:
            self.__exit__()
            raise
        self.ready_seconds = time.perf_counter() - start
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(timeout=_END_SECONDS)

    def cpu_seconds(self, command: str = "") -> float | None:
        """User and system time of its processes so far; None where these are not known.

        Of all of them, or of those whose command line holds `command`.
        """
        if self._process is None:
            return None
        chosen = [each for each in self._processes() if command in " ".join(each.cmdline())]
        times = [each.cpu_times() for each in chosen]
        return sum(each.user + each.system for each in times)

    def memory_bytes(self) -> int | None:
        """Memory of all its processes, shared pages divided (PSS); None if they are not known."""
        if self._process is None:
            return None
        return sum(each.memory_full_info().pss for each in self._processes())

    def _processes(self) -> list[psutil.Process]:
        assert self._process is not None
        parent = psutil.Process(self._process.pid)
        return [parent, *parent.children(recursive=True)]

    def _wait(self, deadline: float) -> str:
        """The model's name, as soon as the server answers. SystemExit if it ends or is too slow."""
        while time.perf_counter() < deadline:
            if self._process is not None and self._process.poll() is not None:
                code = self._process.returncode
                raise SystemExit(f"{self.name} exited with {code}; its output is in {self._log}")
            if name := _first_model(self.url):
                return name
            time.sleep(0.2)
        raise SystemExit(f"{self.name} does not answer {self.url}/v1/models")


def _first_model(url: str) -> str:
    """Empty while the server is not ready: it does not answer, or refuses to."""
    try:
        response = httpx.get(f"{url}/v1/models", timeout=10)
        # llama-server lists its model while it loads it; both say here when they serve.
        health = httpx.get(f"{url}/health", timeout=10)
    except httpx.TransportError:
        return ""
    if not response.is_success or health.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        return ""
    models = response.json()["data"]
    return str(models[0]["id"]) if models else ""


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
