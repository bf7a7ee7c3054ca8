"""Every test sees eight CPU devices, whatever the machine has, so that meshes run for real.

Set before anything imports jax, which reads its environment once. Compiled programs are kept
between runs, and compiled without LLVM's optimizations: they compute the same, in half the time to
compile. A test that starts a server gives it the devices of its machine.

Hypothesis measures nothing: on a busy machine a slow example is no failure. The garbage collector
leaves alone what is there for the whole session: going through it again and again finds nothing.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path

from hypothesis import HealthCheck, settings

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

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

gc.set_threshold(100_000, 50, 100)


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
