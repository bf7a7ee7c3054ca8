"""xds.service.orca.v3.OpenRcaService: a report at once, and then one per interval.

Knows messages and calls; what a report says is decided elsewhere.
"""

from __future__ import annotations

import asyncio

import grpc

from server.api.grpc.handlers import add_service, streaming
from server.api.grpc.messages import parse_large
from server.api.grpc.status import Context, errors_as_status
from server.api.load_reports import LoadReports
from server.errors import ApiError, ErrorKind
from server.pb.xds.service.orca.v3 import orca_pb2 as pb

SERVICE_NAME: str = pb.DESCRIPTOR.services_by_name["OpenRcaService"].full_name
# A client that asks for less would be asking for nothing.
MAX_INTERVAL_SECONDS = 3600.0


def interval_seconds(message: pb.OrcaLoadReportRequest, least_seconds: float) -> float:
    """The interval that a client asks for, within bounds; unset or less than nothing is `least`."""
    asked = message.report_interval
    return min(max(asked.seconds + asked.nanos / 1e9, least_seconds), MAX_INTERVAL_SECONDS)


def add_orca(server: grpc.aio.Server, loads: LoadReports, least_seconds: float) -> None:
    """Serve OpenRcaService on `server`; no stream has reports more often than `least_seconds`."""

    async def stream(data: bytes, context: Context) -> None:
        async with errors_as_status(context):
            message = await parse_large(pb.OrcaLoadReportRequest, data)
            interval = interval_seconds(message, least_seconds)
            while True:
                report = loads.message()
                if report is None:
                    raise ApiError(ErrorKind.UNAVAILABLE, "the engine is still starting")
                await context.write(report)
                await asyncio.sleep(interval)

    add_service(server, SERVICE_NAME, {"StreamCoreMetrics": streaming(stream)})
