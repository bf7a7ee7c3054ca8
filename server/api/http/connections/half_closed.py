"""Clients that send no more but may still read: asks whether one is there, while it waits.

A client that has closed its sending side (`nc -N`) and one that has gone look the same until the
server writes. HTTP/1.1 lets a server send 100 (Continue) at any time before an answer; the kernel
of a client that has gone refuses it, and the event loop then reports the connection as lost.
Knows neither requests nor answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
# Most answers come before the first question. The times between questions double.
FIRST_SECONDS = 0.05
LONGEST_SECONDS = 1.0


class Questions:
    """Writes to `transport` again and again as long as `is_waiting()`: once per request."""

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        is_waiting: Callable[[], bool],
    ) -> None:
        self._transport, self._loop, self._is_waiting = transport, loop, is_waiting
        self._timer = loop.call_later(FIRST_SECONDS, self._ask, FIRST_SECONDS)

    def end(self) -> None:
        self._timer.cancel()

    def _ask(self, seconds: float) -> None:
        if not self._is_waiting():
            return
        self._transport.write(_CONTINUE)
        later = min(2 * seconds, LONGEST_SECONDS)
        self._timer = self._loop.call_later(later, self._ask, later)
