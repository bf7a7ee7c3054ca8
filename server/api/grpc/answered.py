"""What ends every call of a serving method: a status, and the server's load as a trailer.

The trailer comes with errors too, because a load balancer wants to know of a full server. Knows no
messages.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from server.api.grpc.status import Context, add_trailer, errors_as_status
from server.api.load_reports import LoadReports
from server.api.requests.generation import Usage

LOAD_KEY = "endpoint-load-metrics-bin"


class Cost:
    """What a call has cost, for its trailer; `usage` None is not known."""

    usage: Usage | None = None


@asynccontextmanager
async def answered(context: Context, loads: LoadReports) -> AsyncIterator[Cost]:
    """End the call as `errors_as_status` does, and with the trailer."""
    cost = Cost()
    async with errors_as_status(context):
        try:
            yield cost
        finally:
            if data := loads.binary(cost.usage):
                add_trailer(context, LOAD_KEY, data)
