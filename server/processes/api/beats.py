"""Beats of an API process, so that the main process notices one that hangs.

The API process's event loop writes a byte into a pipe several times per second. The main process
looks at intervals whether bytes came. It counts looks, not seconds: if the machine or the main
process itself stood still, that is one look. Knows neither processes nor what to do about a hang.
"""

from __future__ import annotations

import asyncio
import contextlib
import os

BEAT_SECONDS = 0.2
# Looks within the longest silence that is allowed.
LOOKS = 8


class Beats:
    """The reading end. A process that has not begun to beat is starting, and not judged."""

    def __init__(self) -> None:
        self._reading, self.writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(self.writing, False)
        self._has_begun = False
        self._num_silent = 0

    @property
    def is_hung(self) -> bool:
        """Whether the last `LOOKS` looks found nothing, after at least one beat."""
        return self._has_begun and self._num_silent >= LOOKS

    def look(self) -> None:
        """Take the beats that came. To be called `LOOKS` times within the longest silence."""
        with contextlib.suppress(BlockingIOError):
            if os.read(self._reading, 1 << 16):
                self._has_begun, self._num_silent = True, 0
                return
        self._num_silent += 1

    def close(self) -> None:
        os.close(self._reading)
        os.close(self.writing)


async def beat(writing: int) -> None:
    """Beat for as long as the event loop runs; a pipe that is full has beats enough."""
    while True:
        with contextlib.suppress(BlockingIOError):
            os.write(writing, b".")
        await asyncio.sleep(BEAT_SECONDS)
