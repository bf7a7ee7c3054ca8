"""Every test sees eight CPU devices, whatever the machine has, so that meshes run for real.

Set before anything imports jax, which reads its environment once. Compiled programs are kept
between runs, and compiled without LLVM's optimizations: they compute the same, in half the time to
compile. NumPy multiplies on one thread: its matrices are small, and its other threads spin while
they wait. A test that starts a server gives it the devices of its machine.

Hypothesis measures nothing: on a busy machine a slow example is no failure. The garbage collector
leaves alone what is there for the whole session: going through it, once or again, finds nothing.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.marks import CompilationCounter, marks_of

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
    (
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
    )
)
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(".cache/xla-tests").absolute())
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("few", settings.get_profile("untimed"), max_examples=25)
settings.load_profile("untimed")

gc.set_threshold(100_000, 50, 100)


TESTS = Path(__file__).parent
# `make clients` runs these, in an environment of their own.
collect_ignore = ["clients"]
NUM_COMPILED = pytest.StashKey[int]()
compilations = CompilationCounter()


@cache
def marks_under_tests(path: Path) -> list[str]:
    return marks_of(PurePosixPath(os.path.relpath(path, TESTS)))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--unit", action="store_true", help="only files without a mark")
    parser.addoption("--schemas", type=int, default=50, help="JSON schemas to try")
    parser.addoption("--update-golden", action="store_true", help="write the commands of the fleet")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("unit"):
        settings.load_profile("few")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    if config.getvalue("dist") != "loadfile":
        return None
    from tests.scheduling import SharedPrograms

    return SharedPrograms(config, log)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Whether to pass over a file: importing what is not run takes longer than many tests."""
    return True if config.getoption("unit") and marks_under_tests(collection_path) else None


def pytest_itemcollected(item: pytest.Item) -> None:
    for mark in marks_under_tests(item.path):
        item.add_marker(mark)


def pytest_collection_finish() -> None:
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[object]:
    compilations.listen()
    item.stash[NUM_COMPILED] = compilations.count
    return (yield)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    compilations.listen()
    if item.get_closest_marker("compiles") is None:
        num_compiled = compilations.count - item.stash[NUM_COMPILED]
        assert not num_compiled, f"compiled {num_compiled} programs: list it in tests/marks.py"
