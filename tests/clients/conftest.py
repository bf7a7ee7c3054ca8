"""Third-party clients, unchanged and at pinned versions, against one server of the embedded model.

`make clients` runs these tests in an environment of their own: no client may need anything of the
server's. The server is a program of the project's own environment; ANTIPODE_URL names one that
runs already, and ANTIPODE_GRPC its gRPC port.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KEY = "unused"
_START_SECONDS = 180.0

# No client may phone home, and none may take the server's address for one behind a proxy.
os.environ |= {
    "OTEL_SDK_DISABLED": "true",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "NO_PROXY": "127.0.0.1",
}


@pytest.fixture(scope="session")
def server(addresses: tuple[str, str]) -> str:
    """The address of a server over HTTP, without a path."""
    return addresses[0]


@pytest.fixture(scope="session")
def grpc_address(addresses: tuple[str, str]) -> str:
    """The same server's HOST:PORT over gRPC."""
    return addresses[1]


@pytest.fixture(scope="session")
def addresses() -> Iterator[tuple[str, str]]:
    if given := os.environ.get("ANTIPODE_URL"):
        yield given, os.environ.get("ANTIPODE_GRPC", "127.0.0.1:9000")
        return
    http, grpc = (free_port() for _ in range(2))
    program = ROOT / ".venv/bin/antipode"
    flags = (f"--http-port={http}", f"--grpc-port={grpc}", "--host=127.0.0.1")
    process = subprocess.Popen([program, "serve", "--model=tiny", *flags], cwd=ROOT)
    url = f"http://127.0.0.1:{http}"
    try:
        wait_ready(url, process)
        yield url, f"127.0.0.1:{grpc}"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="session")
def base_url(server: str) -> str:
    """The address that OpenAI's clients are given."""
    return f"{server}/v1"


@pytest.fixture(scope="session")
def model() -> str:
    return os.environ.get("ANTIPODE_MODEL", "tiny")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def wait_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server ended"
        try:
            urllib.request.urlopen(f"{url}/readyz", timeout=2)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise TimeoutError(f"{url} is not ready after {_START_SECONDS:g} s")
