"""Every test sees eight CPU devices, whatever the machine has, so that meshes run for real.

Set before anything imports jax, which reads its environment once.
"""

from __future__ import annotations

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()
