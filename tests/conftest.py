"""Every test sees eight CPU devices, whatever the machine has, so that meshes run for real.

Set before anything imports jax, which reads its environment once. Compiled programs are kept
between runs, and compiled without LLVM's optimizations: they compute the same, in half the time to
compile. A test that starts a server gives it the devices of its machine.

Hypothesis measures nothing: on a busy machine a slow example is no failure.

Files run side by side, each in one process. Those that start servers wait much and are long: they
come first, in two rows whose tests run one after another, while others compute beside them.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePath
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
    (
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
    )
)
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(".cache/xla-tests").absolute())
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

ROWS = {
    "hosts": ("e2e/test_hosts.py", "helm/test_served_pod.py"),
    "servers": ("e2e", "k8s/lab"),
}


def row_of(file: str) -> str:
    """The row of servers that a file is in; else its own."""
    inside = PurePath(file).relative_to("tests")
    return next(
        (row for row, places in ROWS.items() if any(map(inside.is_relative_to, places))), file
    )


class RowScheduling(LoadScopeScheduling):
    """What is in one row goes to one process."""

    def _split_scope(self, nodeid: str) -> str:
        return row_of(nodeid.partition("::")[0])


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> RowScheduling:
    return RowScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: row_of(item.nodeid.partition("::")[0]) not in ROWS)


settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
