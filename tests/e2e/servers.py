"""A server in processes of its own, as an operator starts it, and what can be seen from outside."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

PROJECT = Path(__file__).parents[2]
REAL = "server"
FAKE = "tests.e2e.programs.fake_server"
PAUSED = "tests.e2e.programs.paused_server"
KEEPING = "tests.e2e.programs.keeping_server"
START_SECONDS = 200.0
# What a machine may take whose cores others use too. A wait ends when its condition holds.
WAIT_SECONDS = 60.0


class RunningServer:
    """Started on ephemeral ports. `module` is REAL, or FAKE for an engine without a device.

    Where a network namespace is named, it is started in that.
    """

    def __init__(
        self,
        log_path: Path,
        module: str,
        *flags: str,
        namespace: str = "",
        **environment: str,
    ) -> None:
        self.log_path = log_path
        ports = ("--host=127.0.0.1", "--http-port=0", "--grpc-port=0", "--log-format=json")
        inside = ("ip", "netns", "exec", namespace) if namespace else ()
        with log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [*inside, sys.executable, "-m", module, "serve", *ports, *flags],
                cwd=PROJECT,
                env=plain_environment() | environment,
                stdout=log,
                stderr=log,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> list[dict[str, str]]:
        """The whole log lines so far; a line that is no JSON is only a message."""
        # A line that is being written has no end yet.
        lines = self.log_path.read_text(errors="replace").split("\n")[:-1]
        return [json.loads(line) if line[:1] == "{" else {"message": line} for line in lines]

    def logged(self, message: str) -> dict[str, str] | None:
        return next((line for line in self.log if message in line["message"]), None)

    @property
    def http(self) -> str:
        return "http://" + self.start_line["http"]

    @property
    def grpc(self) -> str:
        return self.start_line["grpc"]

    @property
    def start_line(self) -> dict[str, str]:
        return wait_for(lambda: self.logged("starting"), "the start line")

    def wait_ready(self, num_api_processes: int = 1) -> RunningServer:
        def is_ready() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended:\n{self.log_path.read_text()}")
            return sum(line["message"] == "ready" for line in self.log) == num_api_processes

        with self._log_if_late():
            wait_for(is_ready, "ready", START_SECONDS)
        return self

    def children(self, name: str = "") -> list[int]:
        """Pids of the running children, all or those whose command line holds `name`."""
        return [pid for pid in _children_of(self.pid) if name in _command_line(pid)]

    def engine(self) -> int:
        return wait_for(lambda: self.children("engine"), "the engine process")[0]

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait_exit(self, timeout: float = WAIT_SECONDS) -> int:
        with self._log_if_late():
            return self.process.wait(timeout)

    @contextlib.contextmanager
    def _log_if_late(self) -> Iterator[None]:
        """Print the server's log and its processes' states, which pytest shows with a failure."""
        try:
            yield
        except (AssertionError, subprocess.TimeoutExpired):
            print(self.log_path.read_text(errors="replace"))
            for pid in (self.pid, *self.children()):
                print(_of_process(pid, "cmdline"), _of_process(pid, "status"), sep="\n")
            raise

    def get(self, path: str) -> httpx.Response:
        """One request on a connection of its own."""
        with httpx.Client(trust_env=False) as client:
            return client.get(self.http + path, timeout=10)

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """The same with a body."""
        with httpx.Client(trust_env=False) as client:
            return client.post(self.http + path, json=body, timeout=30)

    def metric(self, name: str, **labels: str) -> float:
        return metric_of(self.get("/metrics").text, name, **labels)


def plain_environment() -> dict[str, str]:
    """This process's, without the devices that tests force: a server has those of its machine."""
    flags = os.environ.get("XLA_FLAGS", "").split()
    kept = [flag for flag in flags if "force_host_platform_device_count" not in flag]
    return os.environ | {"XLA_FLAGS": " ".join(kept)}


def metric_of(text: str, name: str, **labels: str) -> float:
    """The value of the first series of that name with those labels."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    raise AssertionError(f"{name} {labels} is not there")


def wait_for[T](condition: Callable[[], T], what: str, timeout: float = WAIT_SECONDS) -> T:
    """Ask until the answer is true, and return it."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if answer := condition():
            return answer
        time.sleep(0.02)
    raise AssertionError(f"{what} took more than {timeout} s")


def first_free_port(count: int = 1) -> int:
    """The first of so many ports in a row on which nobody listens, nor will by chance."""
    while True:
        # Below those that the kernel gives to whoever asks for any.
        first = random.randrange(20_000, 32_000)
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for port in range(first, first + count):
                held.enter_context(socket.create_server(("127.0.0.1", port)))
            return first


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    return _stat(pid)[:1] not in ([], ["Z"])


def _children_of(parent: int) -> list[int]:
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if _stat(pid)[1:2] == [str(parent)] and is_running(pid)]


def _stat(pid: int) -> list[str]:
    """State, parent, ... as in /proc: what follows the command's closing parenthesis."""
    return _of_process(pid, "stat").rpartition(") ")[2].split()


def _command_line(pid: int) -> str:
    return _of_process(pid, "cmdline")


def _of_process(pid: int, name: str) -> str:
    """A file of /proc; "" for a process that is gone, which it may be at any moment."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
