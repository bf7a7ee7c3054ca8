"""Real servers that examples ask: one on the tiny model, and one whose model reads images."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager

import pytest

from tests.e2e.checkpoints import write_image_checkpoint
from tests.e2e.servers import REAL, RunningServer

LIMITS = ("--max-num-seqs=4", "--max-num-batched-tokens=16", "--num-blocks=64")


@contextmanager
def running(folder, *flags):
    # What the server compiles is kept between runs, as what the tests compile.
    cache = f"--compile-cache-dir={os.environ['JAX_COMPILATION_CACHE_DIR']}"
    server = RunningServer(folder / "server.log", REAL, cache, *flags)
    try:
        yield server.wait_ready()
    finally:
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("examples"), "--model=tiny", *LIMITS) as server:
        yield server


@pytest.fixture(scope="session")
def image_server(tmp_path_factory):
    """One whose model reads images, of random weights."""
    folder = tmp_path_factory.mktemp("images")
    model = write_image_checkpoint(folder / "seer" / "1")
    sizes = ("--max-num-seqs=2", "--max-num-batched-tokens=32", "--num-blocks=64")
    flags = ("--dtype=float32", "--max-model-len=256", *sizes)
    with running(folder, f"--model={model}", *flags) as server:
        yield server
