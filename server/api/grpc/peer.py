"""Who made a call: by its metadata, its certificate, or the address of its connection.

Knows neither methods nor messages.
"""

from __future__ import annotations

from server.api.access.call import current_call
from server.api.grpc.status import Context
from server.api.requests.source import source_of


def source(context: Context) -> str:
    """Who made the call, for taking turns."""
    headers, address, call = headers_of(context), host_of(context.peer()), current_call()
    return source_of(headers, address, caller=call.caller_name, trusts_ids=call.trusts_headers)


def headers_of(context: Context) -> dict[str, str]:
    """The call's metadata that is text; its names are in lower case."""
    metadata = context.invocation_metadata() or ()
    return {key: value for key, value in metadata if isinstance(value, str)}


def certificate_of(context: Context) -> str:
    """The common name of the client's certificate, else its first other name; empty without one."""
    found = context.auth_context() or {}
    for key in ("x509_common_name", "x509_subject_alternative_name"):
        for name in found.get(key, ()):
            return bytes(name).decode(errors="replace")
    return ""


def host_of(peer: str) -> str:
    """The address of `ipv4:ADDRESS:PORT`, as HTTP has it; other peers as they are."""
    family, _, rest = peer.partition(":")
    if family not in ("ipv4", "ipv6"):
        return peer
    return rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]")
