"""Tasks that go on in the background, and say so when something ends them that nobody expected."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Coroutine


def in_background(work: Coroutine[None, None, None]) -> asyncio.Task[None]:
    """Start it. The caller keeps the task; an exception is printed, because nobody awaits it."""
    task = asyncio.create_task(work)
    task.add_done_callback(_tell)
    return task


def _tell(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        traceback.print_exception(error)
