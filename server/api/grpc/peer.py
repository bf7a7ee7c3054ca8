"""Who made a call: by its metadata, or by the address of the connection.

Knows neither methods nor messages.
"""

from __future__ import annotations

from server.api.grpc.status import Context
from server.api.requests.source import source_of


def source(context: Context) -> str:
    """Who made the call, for taking turns."""
    metadata = context.invocation_metadata() or ()
    headers = {key: value for key, value in metadata if isinstance(value, str)}
    return source_of(headers, _host(context.peer()))


def _host(peer: str) -> str:
    """The address of `ipv4:ADDRESS:PORT`, as HTTP has it; other peers as they are."""
    family, _, rest = peer.partition(":")
    if family not in ("ipv4", "ipv6"):
        return peer
    return rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]")
