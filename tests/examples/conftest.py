"""One real server on the tiny model, which all examples ask."""

from __future__ import annotations

import os
import signal

import pytest

from tests.e2e.servers import REAL, RunningServer

LIMITS = ("--max-num-seqs=4", "--max-num-batched-tokens=16", "--num-blocks=64")


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    # What the server compiles is kept between runs, as what the tests compile.
    cache = f"--compile-cache-dir={os.environ['JAX_COMPILATION_CACHE_DIR']}"
    server = RunningServer(folder / "server.log", REAL, "--model=tiny", cache, *LIMITS)
    try:
        yield server.wait_ready()
    finally:
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
