"""The state of one API process, STARTING → READY → DRAINING → STOPPED, and its requests in flight.

One object receives the events and decides what is allowed; everything runs on one event loop. Knows
neither transport nor engine: code that must react to a change of state registers a callback.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum


class ServerState(Enum):
    """The states, in the only order that they follow."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"


_ORDER = list(ServerState)

# Seconds that the last event of an ended stream may take to reach its client.
_FLUSH_SECONDS = 2.0


class Lifecycle:
    """The state, and the number of requests in flight.

    Ready and accepting are different. A draining process is not ready, so that load balancers turn
    away from it. They need a while for that, so it accepts requests until `stop_accepting`.
    """

    def __init__(self) -> None:
        self._state = ServerState.STARTING
        self._is_refusing = False
        self._num_in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._listeners: list[Callable[[ServerState], None]] = []

    @property
    def state(self) -> ServerState:
        return self._state

    @property
    def is_ready(self) -> bool:
        return self._state is ServerState.READY

    @property
    def is_accepting(self) -> bool:
        """Whether a new request may start."""
        return self._state in (ServerState.READY, ServerState.DRAINING) and not self._is_refusing

    @property
    def num_in_flight(self) -> int:
        return self._num_in_flight

    def on_change(self, listener: Callable[[ServerState], None]) -> None:
        """Call `listener` with each new state, on the event loop, in order of registration."""
        self._listeners.append(listener)

    def mark_ready(self) -> None:
        """The engine can serve. Without effect after a drain has begun."""
        self._advance(ServerState.READY)

    def begin_drain(self) -> None:
        """Not ready from now on. A process that was never ready stops accepting at once."""
        self._is_refusing |= self._state is ServerState.STARTING
        self._advance(ServerState.DRAINING)

    def stop_accepting(self) -> None:
        """Refuse new requests from now on; requests in flight go on."""
        self._is_refusing = True

    def mark_stopped(self) -> None:
        self._is_refusing = True
        self._advance(ServerState.STOPPED)

    @contextmanager
    def track(self) -> Iterator[None]:
        """Count the request in this block as in flight."""
        self._num_in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._num_in_flight -= 1
            if self._num_in_flight == 0:
                self._idle.set()

    async def wait_idle(self, timeout: float) -> bool:
        """Wait until nothing is in flight; False if that took longer than `timeout` seconds."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout)
        except TimeoutError:
            return False
        return True

    def _advance(self, state: ServerState) -> None:
        if _ORDER.index(state) <= _ORDER.index(self._state):
            return
        self._state = state
        for listener in self._listeners:
            listener(state)


async def drain(
    lifecycle: Lifecycle,
    *,
    lame_duck_seconds: float,
    drain_timeout_seconds: float,
    stop_accepting: Callable[[], None],
    end_streams: Callable[[], None],
) -> None:
    """Let running requests finish, and end those that take too long.

    The process stops being ready at once. After the lame-duck time, it calls `stop_accepting`, and
    no new request starts. After the timeout, it calls `end_streams`, which must end the remaining
    requests; their last events get a moment to be written.
    """
    lifecycle.begin_drain()
    if lifecycle.is_accepting:
        await asyncio.sleep(lame_duck_seconds)
    lifecycle.stop_accepting()
    stop_accepting()
    if not await lifecycle.wait_idle(drain_timeout_seconds):
        end_streams()
        await lifecycle.wait_idle(_FLUSH_SECONDS)
