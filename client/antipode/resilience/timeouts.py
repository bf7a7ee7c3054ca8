"""A bound on how long a block may wait: asyncio's own, or a stand-in where Python is 3.10."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# One class from Python 3.11 on.
TIMEOUTS: tuple[type[BaseException], ...] = (TimeoutError, asyncio.TimeoutError)


@asynccontextmanager
async def _cancel_after(seconds: float) -> AsyncIterator[None]:
    """Cancel the block's task when the time is over, and raise TimeoutError in place of that."""
    task = asyncio.current_task()
    assert task is not None
    is_over = False

    def expire() -> None:
        nonlocal is_over
        is_over = True
        task.cancel()

    timer = asyncio.get_running_loop().call_later(seconds, expire)
    try:
        yield
    except asyncio.CancelledError:
        if is_over:
            raise TimeoutError from None
        raise
    finally:
        timer.cancel()


timeout_after = asyncio.timeout if sys.version_info >= (3, 11) else _cancel_after
