from __future__ import annotations

import contextlib
import os
import signal

import pytest

from tests.e2e.checkpoints import write_serving_checkpoint
from tests.e2e.servers import FAKE, KEEPING, PAUSED, REAL, RunningServer, is_running, wait_for


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    return write_serving_checkpoint(tmp_path_factory.mktemp("bucket") / "toy" / "1")


@pytest.fixture(scope="session")
def compile_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("xla")


@contextlib.contextmanager
def starter(folder, checkpoint, compile_cache):
    """Start servers, which log into the folder; none of their processes may be left at the end."""
    servers = []

    def start_one(module=FAKE, *flags, model=checkpoint, namespace="", **environment):
        sizes = {
            FAKE: ("--max-num-seqs=64", "--max-num-batched-tokens=256", "--num-blocks=4096"),
            REAL: (
                "--max-num-seqs=8",
                "--max-num-batched-tokens=32",
                "--num-blocks=1024",
                "--block-size=16",
            ),
            PAUSED: (),
            KEEPING: (),
        }
        server = RunningServer(
            folder / f"server-{len(servers)}.log",
            module,
            f"--model={model}",
            f"--compile-cache-dir={compile_cache}",
            *sizes[module],
            *flags,
            namespace=namespace,
            **environment,
        )
        servers.append(server)
        return server

    try:
        yield start_one
    finally:
        for server in servers:
            end(server)


def end(server):
    """Kill a server, and wait until none of its processes is left."""
    children = server.children() if is_running(server.pid) else []
    with contextlib.suppress(ProcessLookupError):
        os.kill(server.pid, signal.SIGKILL)
    server.process.wait()
    wait_for(lambda: not any(map(is_running, children)), "the end of the children")


@pytest.fixture
def start(tmp_path, checkpoint, compile_cache):
    """Start servers for one test."""
    with starter(tmp_path, checkpoint, compile_cache) as start:
        yield start


@pytest.fixture
def start_ready(start):
    """Start a server with the fake engine, by flags, and wait until it serves."""

    def start_one(*flags, **environment):
        return start(FAKE, *flags, **environment).wait_ready()

    return start_one
