"""Notices that a client has disconnected, and cancels the work for that client.

Knows only ASGI.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Receive

from server.errors import ApiError, ErrorKind


class ClientGoneError(ApiError):
    """The client has disconnected, so nobody can receive a response."""

    def __init__(self) -> None:
        super().__init__(ErrorKind.CANCELLED, "the client closed the connection")


@asynccontextmanager
async def until_disconnect(receive: Receive) -> AsyncIterator[None]:
    """Cancel the block when the client disconnects, and raise ClientGoneError from it.

    The request's body must have been read.
    """
    task = asyncio.current_task()
    assert task is not None
    is_gone = False

    async def watch() -> None:
        nonlocal is_gone
        while (await receive())["type"] != "http.disconnect":
            pass
        is_gone = True
        # The block is suspended while this runs, so the cancellation is raised inside the block.
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if not is_gone or task.uncancel() > 0:
            raise
        raise ClientGoneError from None
    finally:
        watcher.cancel()
