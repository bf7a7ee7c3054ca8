"""How a reader learns that something has come: a task that waits, or a callback.

For one reader and one thread. Knows neither what has come nor where it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Wakeup:
    """Set by who brings something, cleared by who takes it. While it is set, it wakes nobody."""

    __slots__ = ("_is_set", "_wake")

    def __init__(self) -> None:
        self._is_set = False
        self._wake: Callable[[], object] | None = None

    def set(self) -> None:
        if not self._is_set:
            self._is_set = True
            if self._wake is not None:
                self._wake()

    def clear(self) -> None:
        self._is_set = False

    async def wait(self) -> None:
        """Return once it is set."""
        if self._is_set:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        # Not by `calling`, which would cost every token of a stream a generator.
        self._wake = wake
        try:
            await waiter
        finally:
            self._wake = None

    @contextmanager
    def calling(self, wake: Callable[[], object]) -> Iterator[None]:
        """Have `wake` called meanwhile whenever it becomes set; at once if it is set."""
        self._wake = wake
        if self._is_set:
            wake()
        try:
            yield
        finally:
            self._wake = None
