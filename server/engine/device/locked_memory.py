"""Lets the TPU's driver lock the memory that it moves, of which a process may have little.

Google's pages for TPUs in containers raise the limit and do not say what would suffice, so one that
stays is a warning. It knows no TPU.
"""

from __future__ import annotations

import logging
import resource

_log = logging.getLogger(__name__)


def raise_locked_memory() -> None:
    """Raise the limit as far as this process may; no limit takes the capability SYS_RESOURCE."""
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
