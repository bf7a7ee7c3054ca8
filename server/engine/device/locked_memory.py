"""Raises the limit on locked memory, because the TPU's driver locks the memory that it moves.

Google's documentation for TPUs in containers raises this limit but does not say what suffices. So a
limit that stays is only a warning. Knows no TPU.
"""

from __future__ import annotations

import logging
import resource

_log = logging.getLogger(__name__)


def raise_locked_memory() -> None:
    """Raise the limit as far as this process may; removing it takes the capability SYS_RESOURCE."""
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
