"""A gRPC server that its process starts and stops. Knows no service."""

from __future__ import annotations

import asyncio

import grpc

# Seconds; longer than any drain, so `stop` ends the wait.
_UNTIL_STOPPED_SECONDS = 86_400.0


class GrpcServer:
    """A bound server that is not started. Belongs to the event loop that creates it."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server
        self._refusal: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._server.start()

    def stop_accepting(self) -> None:
        """Close the port and send clients elsewhere (GOAWAY). Running calls go on until `stop`."""
        self._refusal = asyncio.create_task(self._server.stop(_UNTIL_STOPPED_SECONDS))

    async def stop(self, grace: float) -> None:
        """End every call within `grace` seconds. Health watches never end before that."""
        if self._refusal is not None:
            self._refusal.cancel()
            await asyncio.wait([self._refusal])
        await self._server.stop(grace)
