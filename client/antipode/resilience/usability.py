"""Whether a client can still be used: not once it is closed, nor in a process that was forked.

A forked process has neither the threads nor the connections of the one before it, and would wait
for them for ever.
"""

from __future__ import annotations

import os

from antipode.errors import ClosedClientError


class Usability:
    """Of one client, from the process that made it until it is closed."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self.is_closed = False

    def check(self) -> None:
        """ClosedClientError unless the client can be used here and now."""
        if self.is_foreign:
            raise ClosedClientError(
                "this client was made before the process was forked; make one in each process"
            )
        if self.is_closed:
            raise ClosedClientError("this client is closed; make a new one")

    @property
    def is_foreign(self) -> bool:
        return os.getpid() != self._pid
