"""Writes the messages of a call, one at a time, and ends a call whose client reads nothing.

Knows no messages.
"""

from __future__ import annotations

import asyncio
from typing import Any

from server.api.grpc.status import Context
from server.errors import ApiError, ErrorKind


class Writer:
    """One per call. Tasks of the call may share it."""

    def __init__(self, context: Context, timeout_seconds: float) -> None:
        self._context, self._timeout_seconds = context, timeout_seconds
        self._lock = asyncio.Lock()

    async def write(self, message: Any) -> None:
        """ApiError (cancelled) if the client does not read for too long."""
        try:
            async with self._lock, asyncio.timeout(self._timeout_seconds):
                await self._context.write(message)
        except TimeoutError:
            raise ApiError(
                ErrorKind.CANCELLED,
                f"the client read nothing for {self._timeout_seconds:g} seconds",
            ) from None
