"""Ends a container's first process on SIGTERM while it still imports: nothing has begun by then.

Linux ignores a signal to the first process of a container that has no handler for it, so a pod that
is deleted as it starts would live through its whole grace period. Imported before all that takes
time to import; whoever serves later takes the signal over.
"""

from __future__ import annotations

import os
import signal
import sys

FIRST = 1


def _end(*_: object) -> None:
    sys.exit(0)


if os.getpid() == FIRST:
    signal.signal(signal.SIGTERM, _end)
