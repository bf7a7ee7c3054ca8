"""How many files and sockets this process may have open: half for HTTP, a quarter for gRPC."""

from __future__ import annotations

import resource


def most_open_files() -> int:
    """The soft limit of the operating system, bounded where the system sets none."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft
