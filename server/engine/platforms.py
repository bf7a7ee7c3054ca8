"""What must be so before JAX is imported, told from the device files: its platform, locked memory.

Where the TPU's library is installed, JAX asks it for chips first, and on a machine without any that
ends in errors or a long wait. A choice made in JAX_PLATFORMS is never touched. Where there are
chips, their driver locks the memory that it moves, of which a process may have little.
"""

from __future__ import annotations

import logging
import resource
from collections.abc import MutableMapping
from importlib.util import find_spec
from pathlib import Path

_log = logging.getLogger(__name__)

_TPU_FILES = ("accel[0-9]*", "vfio/[0-9]*")
_GPU_FILES = ("nvidia[0-9]*",)


def choose_platform(environment: MutableMapping[str, str], dev: Path = Path("/dev")) -> None:
    """Keep JAX from looking for a TPU where the library is and the chips are not."""
    has_library = find_spec("libtpu") is not None
    if "JAX_PLATFORMS" in environment or not has_library or _has_any(dev, _TPU_FILES):
        return
    environment["JAX_PLATFORMS"] = "cuda,cpu" if _has_any(dev, _GPU_FILES) else "cpu"


def unlock_memory(dev: Path = Path("/dev")) -> None:
    """Raise the limit of locked memory as far as this process may, where there are TPU chips.

    To have no limit takes the capability SYS_RESOURCE. Google's pages for TPUs in containers raise
    it; with how much a driver would do, they do not say, so a limit that stays is a warning.
    """
    if not _has_any(dev, _TPU_FILES):
        return
    _, most = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY,) * 2)
    except (OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (most, most))
        _log.warning(
            "locked memory is limited; if the TPU does not open, run with the capability "
            "SYS_RESOURCE (in the chart: security.asRoot)",
            extra={"bytes": most},
        )


def _has_any(dev: Path, patterns: tuple[str, ...]) -> bool:
    return any(True for pattern in patterns for _ in dev.glob(pattern))
