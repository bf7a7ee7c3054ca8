"""grpc.health.v1, answered from the service's readiness at the moment of each check.

Nothing is cached, so a status cannot lag behind: a watch compares it several times per second.
Knows readiness only as a function that returns true or false.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2

from server.api.grpc.handlers import add_service, streaming, unary
from server.api.grpc.messages import parse_large
from server.api.grpc.status import Context, errors_as_status
from server.errors import ApiError, ErrorKind

WATCH_PERIOD_SECONDS = 0.1


class HealthServicer:
    """SERVING for the whole server ("") and each service while `is_ready()`, else NOT_SERVING."""

    def __init__(self, is_ready: Callable[[], bool], service_names: Iterable[str]) -> None:
        self._is_ready = is_ready
        self._names = frozenset({"", *service_names})

    async def check(self, data: bytes, context: Context) -> Any:
        async with errors_as_status(context):
            service = (await parse_large(health_pb2.HealthCheckRequest, data)).service
            if service not in self._names:
                raise ApiError(ErrorKind.NOT_FOUND, "no such service")
            return self._response(service)

    async def list(self, data: bytes, context: Context) -> Any:
        async with errors_as_status(context):
            await parse_large(health_pb2.HealthListRequest, data)
            statuses = {name: self._response(name) for name in self._names}
            return health_pb2.HealthListResponse(statuses=statuses)

    async def watch(self, data: bytes, context: Context) -> None:
        """Send the status now and at each change, until the client or the server ends the call.

        In the protocol, an unknown service has the status SERVICE_UNKNOWN here, and is no error.
        """
        async with errors_as_status(context):
            service = (await parse_large(health_pb2.HealthCheckRequest, data)).service
            sent = None
            while True:
                if (response := self._response(service)) != sent:
                    await context.write(response)
                    sent = response
                await asyncio.sleep(WATCH_PERIOD_SECONDS)

    def _response(self, service: str) -> Any:
        response = health_pb2.HealthCheckResponse
        if service not in self._names:
            return response(status=response.SERVICE_UNKNOWN)
        return response(status=response.SERVING if self._is_ready() else response.NOT_SERVING)


def add_health(
    server: grpc.aio.Server, is_ready: Callable[[], bool], service_names: Iterable[str]
) -> None:
    """Answer health checks of these services on `server`."""
    servicer = HealthServicer(is_ready, service_names)
    handlers = {
        "Check": unary(servicer.check),
        "List": unary(servicer.list),
        "Watch": streaming(servicer.watch),
    }
    add_service(server, health.SERVICE_NAME, handlers)
