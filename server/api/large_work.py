"""Work on long texts, in threads, so that the event loop goes on: few at once, a bound on the rest.

Only work that releases the interpreter lock, or that is Python all the way, leaves the event loop
its turns. What holds the lock to its end is done one piece at a time. Memory that a large piece of
work took is given back to the system after it. Knows nothing of the work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from server.errors import ApiError, ErrorKind
from server.free_memory import return_free_memory

# Work on this many characters or tokens takes about a millisecond.
MAX_INLINE_UNITS = 4096
# From here on, work takes a tenth of a second or more, and memory that malloc would keep.
LARGE_UNITS = 1 << 16
MAX_AT_ONCE = 2
MAX_WAITING_UNITS = 1 << 26
# A request of so many bytes is large.
LARGE_BYTES = 1 << 20
_RETURN_AFTER_SECONDS = 1.0
# Decoding holds the interpreter lock to its end: with several threads, the event loop would have
# to wait for all of them.
_decoding = ThreadPoolExecutor(1, "decode")


async def decode_large[T](work: Callable[[], T]) -> T:
    """Decode a request of more than `LARGE_BYTES`, after those that came before it."""
    memory_return.soon()
    return await asyncio.get_running_loop().run_in_executor(_decoding, work)


class LargeWork:
    """Belongs to one event loop. A unit is a character of text or a token."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)
        self._num_units = 0

    async def run[T](self, num_units: int, work: Callable[[], T]) -> T:
        """Do `work` on so many units. ApiError if too much waits already."""
        if num_units <= MAX_INLINE_UNITS:
            return work()
        if num_units <= LARGE_UNITS:
            return await asyncio.to_thread(work)
        if self._num_units + num_units > MAX_WAITING_UNITS:
            raise ApiError(
                ErrorKind.QUEUE_FULL, "too much text waits to be tokenized; send it again later"
            )
        self._num_units += num_units
        try:
            await self._slots.acquire()
            return await self._in_slot(work)
        finally:
            self._num_units -= num_units
            memory_return.soon()

    async def _in_slot[T](self, work: Callable[[], T]) -> T:
        """A thread cannot be cancelled, so the slot is free only when the work is done."""
        running = asyncio.get_running_loop().run_in_executor(None, work)
        running.add_done_callback(lambda _: self._slots.release())
        return await asyncio.shield(running)


class MemoryReturn:
    """Has glibc give free memory back to the system, a moment after large requests.

    Without it, a process keeps the memory of the largest request that it ever had.
    """

    def __init__(self) -> None:
        self._waits_on: asyncio.AbstractEventLoop | None = None

    def soon(self) -> None:
        """Do it once, after the requests of the next moment too. On an event loop."""
        loop = asyncio.get_running_loop()
        if self._waits_on is not loop:
            self._waits_on = loop
            loop.call_later(_RETURN_AFTER_SECONDS, self._begin, loop)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._waits_on = None
        loop.run_in_executor(None, return_free_memory)


memory_return = MemoryReturn()
