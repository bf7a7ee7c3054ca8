"""How long the event loop computes at once, in CPU time, which other load lengthens little.

What a client sends may take the server long, but never in one turn of the loop: all others would
wait for it.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """The CPU time of the loop's thread at each turn of the loop, in seconds."""

    def __init__(self) -> None:
        self._times = [time.thread_time()]

    def take(self) -> None:
        self._times.append(time.thread_time())

    @property
    def longest(self) -> float:
        return max(later - earlier for earlier, later in itertools.pairwise(self._times))


@asynccontextmanager
async def watched_turns() -> AsyncIterator[Turns]:
    """Takes the time of every turn until the block ends."""
    turns = Turns()

    async def watch() -> None:
        while True:
            await asyncio.sleep(0)
            turns.take()

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    try:
        yield turns
    finally:
        watching.cancel()
        turns.take()
