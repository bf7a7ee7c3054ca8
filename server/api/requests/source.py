"""Who sends a request, as a short hash: requests take turns by source.

The hash keeps names and addresses out of frames and memory dumps. Only what the server has proved,
or trusts, makes a source: whoever could invent one would get more turns. Knows neither HTTP nor
gRPC: a transport gives it the request's headers and the client's address.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

# A gateway names the tenant in these; the first one that is there counts.
FAIRNESS_HEADERS = ("x-gateway-inference-fairness-id", "x-llm-d-inference-fairness-id")
_DIGEST_BYTES = 8


def source_of(
    headers: Mapping[str, str], client_address: str, *, caller: str = "", trusts_ids: bool = True
) -> str:
    """By fairness id if these are trusted, else by caller, else by the client's address.

    Header names are in lower case. `caller` is the name of the call's key or certificate, empty
    where the server asks for neither. A client with many connections is one source.
    """
    for header in FAIRNESS_HEADERS if trusts_ids else ():
        if value := headers.get(header, "").strip():
            return _digest(f"id:{value}")
    return _digest(f"caller:{caller}" if caller else f"address:{client_address}")


def _digest(name: str) -> str:
    return blake2b(name.encode(errors="replace"), digest_size=_DIGEST_BYTES).hexdigest()
