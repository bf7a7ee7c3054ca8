"""Chooses JAX's platform by the device files, before JAX is imported.

Where the TPU's library is installed, JAX first looks for TPU chips. On a machine without chips,
that ends in errors or a long wait. An operator's choice in JAX_PLATFORMS is never changed.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from importlib.util import find_spec
from pathlib import Path

_TPU_FILES = ("accel[0-9]*", "vfio/[0-9]*")
_GPU_FILES = ("nvidia[0-9]*",)


def choose_platform(environment: MutableMapping[str, str], dev: Path = Path("/dev")) -> None:
    """Keep JAX from looking for a TPU where the library is installed but there are no chips."""
    has_library = find_spec("libtpu") is not None
    if "JAX_PLATFORMS" in environment or not has_library or has_tpu(dev):
        return
    environment["JAX_PLATFORMS"] = "cuda,cpu" if _has_any(dev, _GPU_FILES) else "cpu"


def has_tpu(dev: Path = Path("/dev")) -> bool:
    return _has_any(dev, _TPU_FILES)


def _has_any(dev: Path, patterns: tuple[str, ...]) -> bool:
    return any(True for pattern in patterns for _ in dev.glob(pattern))
